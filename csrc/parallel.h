// Parallel loops on the OpenMP runtime that torch has loaded, floating-point state, growing scratch memory, and what an
// entry point answers when something went wrong.
#pragma once
#include <atomic>
#include <cstdint>
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
#elif defined(__aarch64__)
  uint64_t before = control();
  FlushDenormals() { control(before | uint64_t(1) << 24); }
  ~FlushDenormals() { control(before); }
  static uint64_t control() {
    uint64_t value;
    asm volatile("mrs %0, fpcr" : "=r"(value));
    return value;
  }
  static void control(uint64_t value) { asm volatile("msr fpcr, %0" : : "r"(value)); }
#endif
};

// What an entry point returns; fourdgen/native.py has a sentence for each.
enum Outcome { DONE = 0, TOO_MANY_CHANNELS = 1, OUT_OF_MEMORY = 2, TOO_MANY_TILES = 3 };

// Runs f, whose exceptions (an Outcome, or memory that could not be had) must not reach a caller that is not C++.
template <class F> static int outcome_of(F f) {
  try {
    f();
    return DONE;
  } catch (const std::bad_alloc &) {
    return OUT_OF_MEMORY;
  } catch (Outcome outcome) {
    return outcome;
  }
}

// No exception may leave a parallel region: whether f(i) had the memory it wanted is told instead.
template <class F> static bool has_memory_for(F &f, int i) {
  try {
    f(i);
    return true;
  } catch (const std::bad_alloc &) {
    return false;
  }
}

// f(i) for i in [0, count). Which thread runs which i is left open: f must not let results depend on it. Throws bad_alloc
// where any of them did.
template <class F> static void parallel_for(int count, int threads, F f) {
  if (threads <= 1 || count <= 1) {
    FlushDenormals flush;
    for (int i = 0; i < count; i++) f(i);
    return;
  }
  std::atomic<bool> failed{false};
#pragma omp parallel num_threads(threads)
  {
    FlushDenormals flush;
#pragma omp for schedule(dynamic, 1)
    for (int i = 0; i < count; i++)
      if (!has_memory_for(f, i)) failed = true;
  }
  if (failed) throw std::bad_alloc();
}

// The same for items that cost alike: each thread takes a range, the same in every call, so that what it wrote before still
// lies in its own cache. (Cores that share no cache pay dearly for each other's lines.)
template <class F> static void parallel_even(int count, int threads, F f) {
  if (threads <= 1 || count <= 1) return parallel_for(count, 1, f);
  std::atomic<bool> failed{false};
#pragma omp parallel num_threads(threads)
  {
    FlushDenormals flush;
#pragma omp for schedule(static)
    for (int i = 0; i < count; i++)
      if (!has_memory_for(f, i)) failed = true;
  }
  if (failed) throw std::bad_alloc();
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
      capacity_ = 0;
      const size_t wanted = count + count / 4 + 64, huge = size_t(1) << 21, bytes = wanted * sizeof(T);
      const size_t alignment = bytes < huge / 2 ? 64 : huge, rounded = (bytes + alignment - 1) / alignment * alignment;
      data_ = static_cast<T *>(aligned_alloc(alignment, rounded));
      if (!data_) throw std::bad_alloc();
      capacity_ = wanted;
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
