// Parallel loops on the OpenMP runtime that torch has loaded, floating-point state, and growing scratch memory.
#pragma once
#include <cstdlib>
#include <new>
#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

// Flushes denormal numbers to zero while alive: the tails of Gaussians would otherwise cost 5 times the kernel.
struct FlushDenormals {
#if defined(__SSE__)
  unsigned before = _mm_getcsr();
  FlushDenormals() { _mm_setcsr(before | 0x8040); }
  ~FlushDenormals() { _mm_setcsr(before); }
#endif
};

// f(i) for i in [0, count). Which thread runs which i is left open: f must not let results depend on it.
template <class F> static void parallel_for(int count, int threads, F f) {
  if (threads <= 1 || count <= 1) {
    FlushDenormals flush;
    for (int i = 0; i < count; i++) f(i);
    return;
  }
#pragma omp parallel num_threads(threads)
  {
    FlushDenormals flush;
#pragma omp for schedule(dynamic, 1)
    for (int i = 0; i < count; i++) f(i);
  }
}

// The same for items that cost alike: each thread takes a range, the same in every call, so that what it wrote before still
// lies in its own cache. (Cores that share no cache pay dearly for each other's lines.)
template <class F> static void parallel_even(int count, int threads, F f) {
  if (threads <= 1 || count <= 1) return parallel_for(count, 1, f);
#pragma omp parallel num_threads(threads)
  {
    FlushDenormals flush;
#pragma omp for schedule(static)
    for (int i = 0; i < count; i++) f(i);
  }
}

// Uninitialised scratch that only grows and is aligned to a cache line. Large scratch asks for huge pages: it is visited in
// no order, so that every visit would otherwise cost a walk through the page tables.
template <class T> class Buffer {
 public:
  Buffer() = default;
  Buffer(const Buffer &) = delete;
  Buffer &operator=(const Buffer &) = delete;
  ~Buffer() { free(data_); }
  T *resize(size_t count) {
    if (count > capacity_) {
      free(data_);
      capacity_ = count + count / 4 + 64;
      const size_t huge = size_t(1) << 21, bytes = capacity_ * sizeof(T), alignment = bytes < huge / 2 ? 64 : huge;
      const size_t rounded = (bytes + alignment - 1) / alignment * alignment;
      data_ = static_cast<T *>(aligned_alloc(alignment, rounded));
      if (!data_) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
      if (alignment == huge) madvise(data_, rounded, MADV_HUGEPAGE);
#endif
    }
    return data_;
  }
  T *data() const { return data_; }

 private:
  T *data_ = nullptr;
  size_t capacity_ = 0;
};
