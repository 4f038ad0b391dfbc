// L1 + D-SSIM (Wang et al. 2004: 11 x 11 Gaussian window, sigma 1.5, zero padding) and its gradient in one streaming pass.
// A strip of rows of one channel is a work item: blurred rows live in rings that stay in the cache.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "parallel.h"
#include "simd.h"

namespace {

constexpr int TAPS = 11, RADIUS = 5, STRIP = 64, RING = 16;
constexpr float C1 = 0.0001f, C2 = 0.0009f;

struct Window {
  float g[TAPS];
  Window() {
    double total = 0;
    for (int i = 0; i < TAPS; i++) total += std::exp(-(i - RADIUS) * (i - RADIUS) / (2 * 1.5 * 1.5));
    for (int i = 0; i < TAPS; i++) g[i] = (float)(std::exp(-(i - RADIUS) * (i - RADIUS) / (2 * 1.5 * 1.5)) / total);
  }
};

struct Job {
  const float *image, *target, *weight;
  int w, h;
  float l1, dssim;  // factors of one pixel of weight 1
  float *grad;
};

// Rows of `width` floats, rounded up to whole vectors and with zeroed margins on both sides.
struct Rows {
  Rows(float *memory, int pitch) : memory(memory), pitch(pitch) {}
  float *operator()(int row) const { return memory + (size_t)((row + RING) % RING) * pitch + 2 * LANES; }
  float *memory;
  int pitch;
};

void blur_row(const float *from, float *to, int w, const Window &window) {
  for (int x = 0; x < w; x += LANES) {
    Float a = splat(0.f);
    for (int t = 0; t < TAPS; t++) a = fma(splat(window.g[t]), load(from + x + t - RADIUS), a);
    store(to + x, a);
  }
}

Float blur_column(const Rows &rows, int y, int x, int h, const Window &window) {
  Float a = splat(0.f);
  for (int t = std::max(0, RADIUS - y), end = std::min(TAPS, h + RADIUS - y); t < end; t++)
    a = fma(splat(window.g[t]), load(rows(y + t - RADIUS) + x), a);
  return a;
}

// A row, copied so that whole vectors may be read past its end: what lies there is 0.
void copy_row(float *to, const float *from, int w, int padded) {
  std::copy(from, from + w, to);
  std::fill(to + w, to + padded, 0.f);
}

void strip(const Job &job, int y0, int y1, double &l1_sum, double &ssim_sum) {
  const Window window;
  const int padded = (job.w + LANES - 1) / LANES * LANES, pitch = padded + 4 * LANES;
  std::vector<float> memory((size_t)pitch * (RING * 8 + 8), 0.f);
  float *next = memory.data();
  auto rows = [&](int count) {
    Rows r(next, pitch);
    next += (size_t)count * pitch;
    return r;
  };
  const Rows x_blur = rows(RING), y_blur = rows(RING), xx_blur = rows(RING), yy_blur = rows(RING), xy_blur = rows(RING);
  const Rows d0_blur = rows(RING), d1_blur = rows(RING), d2_blur = rows(RING);
  float *line[8];
  for (float *&l : line) l = rows(1)(0);
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
        store(line[2] + x, a * a), store(line[3] + x, b * b), store(line[4] + x, a * b);
      }
      blur_row(line[0], x_blur(y), padded, window);
      blur_row(line[1], y_blur(y), padded, window);
      blur_row(line[2], xx_blur(y), padded, window);
      blur_row(line[3], yy_blur(y), padded, window);
      blur_row(line[4], xy_blur(y), padded, window);
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
    for (int x = 0; x < padded; x += LANES) {
      const Float a = load(line[0] + x), b = load(line[1] + x), difference = a - b;
      const Float step = splat(job.l1) * load(line[5] + x);
      const Float sign = select(gt(difference, zero), step, select(gt(zero, difference), zero - step, zero));
      const Float s = blur_column(d0_blur, y, x, job.h, window) + two * a * blur_column(d1_blur, y, x, job.h, window) +
                      b * blur_column(d2_blur, y, x, job.h, window);
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
    for (int x = 0; x < padded; x += LANES) {
      const Float mx = blur_column(x_blur, y, x, job.h, window), my = blur_column(y_blur, y, x, job.h, window);
      const Float sx = blur_column(xx_blur, y, x, job.h, window) - mx * mx, sy = blur_column(yy_blur, y, x, job.h, window) - my * my;
      const Float sxy = blur_column(xy_blur, y, x, job.h, window) - mx * my, weight = load(line[5] + x);
      const Float a1 = two * mx * my + splat(C1), a2 = two * sxy + splat(C2);
      const Float b1 = one / (mx * mx + my * my + splat(C1)), b2 = one / (sx + sy + splat(C2)), b12 = b1 * b2;
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
// image, target [c h w], weight [h w] or null. Returns sum w (l1 |x - y| + dssim (1 - SSIM)) / (c sum w), and its gradient to
// the image in `grad` [c h w] unless that is null.
double fourdgen_l1_dssim(const float *image, const float *target, const float *weight, int c, int h, int w, float l1,
                         float dssim, float *grad, int threads) {
  double total = 0;
  if (weight)
    for (int64_t i = 0; i < (int64_t)h * w; i++) total += weight[i];
  else
    total = (double)h * w;
  if (total <= 0) {
    if (grad) std::fill_n(grad, (size_t)c * h * w, 0.f);
    return 0;
  }
  const int strips = (h + STRIP - 1) / STRIP;
  const double scale = 1 / (c * total);
  std::vector<double> l1_sums(c * strips, 0.), ssim_sums(c * strips, 0.);
  parallel_for(c * strips, threads, [&](int item) {
    const size_t plane = (size_t)(item / strips) * h * w;
    const int y0 = item % strips * STRIP, y1 = std::min(h, y0 + STRIP);
    const Job job{image + plane, target + plane, weight, w, h, (float)(l1 * scale), (float)(dssim * scale),
                  grad ? grad + plane : nullptr};
    strip(job, y0, y1, l1_sums[item], ssim_sums[item]);
  });
  double loss = 0;
  for (int item = 0; item < c * strips; item++) loss += l1 * l1_sums[item] + dssim * ssim_sums[item];
  return loss * scale;
}
}
