// L1 + D-SSIM (Wang et al. 2004: 11 x 11 Gaussian window, sigma 1.5, zero padding) and its gradient in one streaming pass.
// A strip of rows of one channel is a work item: blurred rows live in rings that stay in the cache.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "parallel.h"
#include "simd.h"

namespace {

constexpr int TAPS = 11, RADIUS = 5, STRIP = 128, RING = 16;
constexpr float C1 = 0.0001f, C2 = 0.0009f;

struct Window {
  float g[RADIUS + 1];  // the taps at distance 0, 1, ... from the middle
  Window() {
    double total = 0;
    for (int i = -RADIUS; i <= RADIUS; i++) total += std::exp(-i * i / (2 * 1.5 * 1.5));
    for (int i = 0; i <= RADIUS; i++) g[i] = (float)(std::exp(-i * i / (2 * 1.5 * 1.5)) / total);
  }
};

struct Job {
  const float *image, *target, *weight;
  int w, h;
  float l1, dssim;  // factors of one pixel of weight 1
  float *grad;
};

// Rows of floats, rounded up to whole vectors and with margins of zeros on both sides.
struct Rows {
  Rows(float *memory, int pitch) : memory(memory), pitch(pitch) {}
  float *operator()(int row) const { return memory + (size_t)((row + RING) % RING) * pitch + 2 * LANES; }
  float *memory;
  int pitch;
};

void blur_row(const float *from, float *to, int w, const Window &window) {
  Float before = load(from - LANES), here = load(from);
  for (int x = 0; x < w; x += LANES) {
    const float *p = from + x;
    const Float after = load(p + LANES);
    Float a = splat(window.g[0]) * here;
    a = fma(splat(window.g[1]), beyond<-1>(p, before, here, after) + beyond<1>(p, before, here, after), a);
    a = fma(splat(window.g[2]), beyond<-2>(p, before, here, after) + beyond<2>(p, before, here, after), a);
    a = fma(splat(window.g[3]), beyond<-3>(p, before, here, after) + beyond<3>(p, before, here, after), a);
    a = fma(splat(window.g[4]), beyond<-4>(p, before, here, after) + beyond<4>(p, before, here, after), a);
    a = fma(splat(window.g[5]), beyond<-5>(p, before, here, after) + beyond<5>(p, before, here, after), a);
    store(to + x, a);
    before = here, here = after;
  }
}

// The blur down the rows around one row; rows outside the picture are `zeros`.
struct Column {
  Column(const Rows &rows, int y, int h, const float *zeros) {
    for (int t = 0; t < TAPS; t++) {
      const int row = y + t - RADIUS;
      taps[t] = row < 0 || row >= h ? zeros : rows(row);
    }
  }
  Float blur(int x, const Window &window) const {
    Float a = splat(window.g[0]) * load(taps[RADIUS] + x);
#pragma GCC unroll 5
    for (int t = 1; t <= RADIUS; t++) a = fma(splat(window.g[t]), load(taps[RADIUS - t] + x) + load(taps[RADIUS + t] + x), a);
    return a;
  }
  const float *taps[TAPS];
};

// A row, copied so that whole vectors may be read past its end: what lies there is 0.
void copy_row(float *to, const float *from, int w, int padded) {
  std::copy(from, from + w, to);
  std::fill(to + w, to + padded, 0.f);
}

void strip(const Job &job, int y0, int y1, double &l1_sum, double &ssim_sum) {
  const Window window;
  const int padded = (job.w + LANES - 1) / LANES * LANES, pitch = padded + 4 * LANES;
  static thread_local Buffer<float> memory;
  constexpr int ROWS = RING * 7 + 8;
  float *next = memory.resize((size_t)pitch * ROWS);
  for (int row = 0; row < ROWS; row++) {
    std::fill_n(next + (size_t)row * pitch, 2 * LANES, 0.f);
    std::fill_n(next + (size_t)row * pitch + 2 * LANES + padded, 2 * LANES, 0.f);
  }
  auto rows = [&](int count) {
    Rows r(next, pitch);
    next += (size_t)count * pitch;
    return r;
  };
  const Rows x_blur = rows(RING), y_blur = rows(RING), squares_blur = rows(RING), xy_blur = rows(RING);
  const Rows d0_blur = rows(RING), d1_blur = rows(RING), d2_blur = rows(RING);
  float *line[7];
  for (float *&l : line) l = rows(1)(0);
  float *zeros = rows(1)(0);
  std::fill_n(zeros, padded, 0.f);
  const Float zero = splat(0.f), one = splat(1.f), two = splat(2.f);
  const int first = job.grad ? std::max(0, y0 - RADIUS) : y0, last = job.grad ? std::min(job.h, y1 + RADIUS) : y1;
  int blurred = std::max(0, first - RADIUS);
  auto blur_until = [&](int end) {
    for (; blurred < std::min(end, job.h); blurred++) {
      const int y = blurred;
      copy_row(line[0], job.image + (size_t)y * job.w, job.w, padded);
      copy_row(line[1], job.target + (size_t)y * job.w, job.w, padded);
      for (int x = 0; x < padded; x += LANES) {
        const Float a = load(line[0] + x), b = load(line[1] + x);
        store(line[2] + x, fma(a, a, b * b)), store(line[3] + x, a * b);
      }
      blur_row(line[0], x_blur(y), padded, window);
      blur_row(line[1], y_blur(y), padded, window);
      blur_row(line[2], squares_blur(y), padded, window);
      blur_row(line[3], xy_blur(y), padded, window);
    }
  };
  auto load_weight = [&](int y) {
    if (job.weight) copy_row(line[5], job.weight + (size_t)y * job.w, job.w, padded);
    else std::fill(line[5], line[5] + job.w, 1.f);
  };
  auto gradient_row = [&](int y) {
    copy_row(line[0], job.image + (size_t)y * job.w, job.w, padded);
    copy_row(line[1], job.target + (size_t)y * job.w, job.w, padded);
    load_weight(y);
    const Column d0(d0_blur, y, job.h, zeros), d1(d1_blur, y, job.h, zeros), d2(d2_blur, y, job.h, zeros);
    for (int x = 0; x < padded; x += LANES) {
      const Float a = load(line[0] + x), b = load(line[1] + x), difference = a - b;
      const Float step = splat(job.l1) * load(line[5] + x);
      const Float sign = select(gt(difference, zero), step, select(gt(zero, difference), zero - step, zero));
      const Float s = d0.blur(x, window) + two * a * d1.blur(x, window) + b * d2.blur(x, window);
      store(line[6] + x, fma(splat(-job.dssim), s, sign));
    }
    std::copy(line[6], line[6] + job.w, job.grad + (size_t)y * job.w);
  };
  std::fill(line[5], line[5] + padded, 0.f);
  for (int y = first; y < last; y++) {
    blur_until(y + RADIUS + 1);
    load_weight(y);
    copy_row(line[0], job.image + (size_t)y * job.w, job.w, padded);
    copy_row(line[1], job.target + (size_t)y * job.w, job.w, padded);
    Float ssim_row = zero, l1_row = zero;
    const Column column_x(x_blur, y, job.h, zeros), column_y(y_blur, y, job.h, zeros);
    const Column column_squares(squares_blur, y, job.h, zeros), column_xy(xy_blur, y, job.h, zeros);
    for (int x = 0; x < padded; x += LANES) {
      const Float mx = column_x.blur(x, window), my = column_y.blur(x, window);
      const Float means2 = fma(mx, mx, my * my), variances = column_squares.blur(x, window) - means2;
      const Float sxy = column_xy.blur(x, window) - mx * my, weight = load(line[5] + x);
      const Float a1 = two * mx * my + splat(C1), a2 = two * sxy + splat(C2);
      const Float b1 = reciprocal(means2 + splat(C1)), b2 = reciprocal(variances + splat(C2)), b12 = b1 * b2;
      const Float ssim = a1 * a2 * b12;
      ssim_row = fma(weight, one - ssim, ssim_row);
      l1_row = fma(weight, abs(load(line[0] + x) - load(line[1] + x)), l1_row);
      store(line[2] + x, weight * two * (my * (a2 - a1) * b12 + mx * ssim * (b2 - b1)));
      store(line[3] + x, zero - weight * ssim * b2);
      store(line[4] + x, weight * two * a1 * b12);
    }
    if (y >= y0 && y < y1) ssim_sum += sum(ssim_row), l1_sum += sum(l1_row);
    if (!job.grad) continue;
    blur_row(line[2], d0_blur(y), padded, window);
    blur_row(line[3], d1_blur(y), padded, window);
    blur_row(line[4], d2_blur(y), padded, window);
    if (y - RADIUS >= y0) gradient_row(y - RADIUS);
  }
  if (job.grad)
    for (int y = std::max(y0, last - RADIUS); y < y1; y++) gradient_row(y);
}

}  // namespace

extern "C" {
// image, target [c h w], weight [h w] or null. `loss`: sum w (l1 |x - y| + dssim (1 - SSIM)) / (c sum w); its gradient to the
// image goes to `grad` [c h w] unless that is null. Returns an Outcome.
int fourdgen_l1_dssim(const float *image, const float *target, const float *weight, int c, int h, int w, float l1, float dssim,
                      float *grad, double *loss, int threads) {
  double total = 0;
  if (weight)
    for (int64_t i = 0; i < (int64_t)h * w; i++) total += weight[i];
  else
    total = (double)h * w;
  *loss = 0;
  if (total <= 0) {
    if (grad) std::fill_n(grad, (size_t)c * h * w, 0.f);
    return DONE;
  }
  const int strips = (h + STRIP - 1) / STRIP, rows = (h + strips - 1) / strips;
  const double scale = 1 / (c * total);
  return outcome_of([&] {
    std::vector<double> l1_sums(c * strips, 0.), ssim_sums(c * strips, 0.);
    parallel_for(c * strips, threads, [&](int item) {
      const size_t plane = (size_t)(item / strips) * h * w;
      const int y0 = std::min(h, item % strips * rows), y1 = std::min(h, y0 + rows);
      const Job job{image + plane, target + plane, weight, w, h, (float)(l1 * scale), (float)(dssim * scale),
                    grad ? grad + plane : nullptr};
      strip(job, y0, y1, l1_sums[item], ssim_sums[item]);
    });
    for (int item = 0; item < c * strips; item++) *loss += scale * (l1 * l1_sums[item] + dssim * ssim_sums[item]);
  });
}
}
