// Parallel loops on the OpenMP runtime that torch has loaded, floating-point state, and growing scratch memory.
#pragma once
#include <cstdlib>
#include <new>
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

// Uninitialised scratch that only grows and is aligned to a cache line.
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
      data_ = static_cast<T *>(aligned_alloc(64, (capacity_ * sizeof(T) + 63) / 64 * 64));
      if (!data_) throw std::bad_alloc();
    }
    return data_;
  }
  T *data() const { return data_; }

 private:
  T *data_ = nullptr;
  size_t capacity_ = 0;
};
