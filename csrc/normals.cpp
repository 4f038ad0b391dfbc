// How far drawn normals are from those of the surface that the drawn depth describes, and its gradient (fit/losses.py has
// the same in torch, where it costs more than drawing).
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "parallel.h"

namespace {

constexpr float LEAST_ALPHA = 1e-6f, COVERED = 0.5f;
constexpr int SUMS = 13;  // of a row: rotation, fx, cx, fy, cy

// Given by value to the loops, so that the compiler knows its numbers not to change under what they write.
struct View {
  const float *depth, *alpha, *normal;  // [h w] [h w] [3 h w]
  float rotation[9], inverse_fx, inverse_fy, cx, cy;
  int w, h;
  size_t size;
  View(int view, const float *depths, const float *alphas, const float *normals, const float *poses, const float *Ks, int w, int h)
      : w(w), h(h), size((size_t)w * h) {
    depth = depths + view * size, alpha = alphas + view * size, normal = normals + 3 * view * size;
    const float *K = Ks + view * 9;
    for (int j = 0; j < 3; j++)
      for (int i = 0; i < 3; i++) rotation[j * 3 + i] = poses[view * 16 + j * 4 + i];
    inverse_fx = 1.f / K[0], inverse_fy = 1.f / K[4], cx = K[2], cy = K[5];
  }
  float ray_x(int x) const { return (x + 0.5f - cx) * inverse_fx; }
  float ray_y(int y) const { return (y + 0.5f - cy) * inverse_fy; }
};

// The view's inner pixel (x, y): the surface spanned by the points right minus left (a) and below minus above (d).
struct Pixel {
  float ax, ay, az, dx, dy, dz;
  float nx, ny, nz, inverse_length;  // of d x a
  float mx, my, mz;                  // the drawn normal in camera space
  bool counts;
  Pixel(const View &v, const float *z, int x, int y) {
    const size_t here = (size_t)y * v.w + x, up = here - v.w, down = here + v.w;
    const float right = z[here + 1], left = z[here - 1], below = z[down], above = z[up];
    ax = v.ray_x(x + 1) * right - v.ray_x(x - 1) * left, az = right - left, ay = v.ray_y(y) * az;
    dy = v.ray_y(y + 1) * below - v.ray_y(y - 1) * above, dz = below - above, dx = v.ray_x(x) * dz;
    const float cx = dy * az - dz * ay, cy = dz * ax - dx * az, cz = dx * ay - dy * ax;
    inverse_length = 1.f / std::max(std::sqrt(cx * cx + cy * cy + cz * cz), 1e-12f);
    nx = cx * inverse_length, ny = cy * inverse_length, nz = cz * inverse_length;
    const float *n = v.normal + here, *r = v.rotation;
    const float n0 = n[0], n1 = n[v.size], n2 = n[2 * v.size];
    mx = r[0] * n0 + r[1] * n1 + r[2] * n2, my = r[3] * n0 + r[4] * n1 + r[5] * n2, mz = r[6] * n0 + r[7] * n1 + r[8] * n2;
    const float *a = v.alpha;
    const float least = std::min(std::min(a[here + 1], a[here - 1]), std::min(a[up], a[down]));
    counts = (least > LEAST_ALPHA) & (a[here] > COVERED) & (std::abs(nx) + std::abs(ny) + std::abs(nz) > 0.f);
  }
};

void divide(const View &v, float *z) {
  for (size_t i = 0; i < v.size; i++) z[i] = v.depth[i] / std::max(v.alpha[i], LEAST_ALPHA);
}

// Rows are not inlined: two copies of one loop might be vectorised differently, and then give other last bits.
#define ROW __attribute__((noinline)) void

ROW bend_row(const View v, const float *z, int y, float *out) {
#pragma omp simd
  for (int x = 1; x < v.w - 1; x++) {
    const Pixel p(v, z, x, y);
    const float bent = 1.f - (p.nx * p.mx + p.ny * p.my + p.nz * p.mz);
    out[(size_t)y * v.w + x] = p.counts ? bent : 0.f;
  }
}

// Gradients of the normal [3 h w], of a and d (`slopes` [6 h w]) and of the rotation.
ROW differentiate_row(const View v, const float *z, const float *grad, int y, float *to_normal, float *slopes, double *sums) {
  const size_t size = v.size;
  const float *r = v.rotation;
  float turn[9] = {};
#pragma omp simd reduction(+ : turn[ : 9])
  for (int x = 1; x < v.w - 1; x++) {
    const size_t here = (size_t)y * v.w + x;
    const Pixel p(v, z, x, y);
    const float g = p.counts ? -grad[here] : 0.f;
    const float along = p.nx * p.mx + p.ny * p.my + p.nz * p.mz, scale = g * p.inverse_length;
    const float cx = scale * (p.mx - along * p.nx), cy = scale * (p.my - along * p.ny), cz = scale * (p.mz - along * p.nz);
    float *s = slopes + here;
    s[0] = cy * p.dz - cz * p.dy, s[size] = cz * p.dx - cx * p.dz, s[2 * size] = cx * p.dy - cy * p.dx;
    s[3 * size] = p.ay * cz - p.az * cy, s[4 * size] = p.az * cx - p.ax * cz, s[5 * size] = p.ax * cy - p.ay * cx;
    const float n[3] = {v.normal[here], v.normal[size + here], v.normal[2 * size + here]};
    const float N[3] = {g * p.nx, g * p.ny, g * p.nz};
    for (int i = 0; i < 3; i++) to_normal[i * size + here] = r[i] * N[0] + r[3 + i] * N[1] + r[6 + i] * N[2];
    for (int j = 0; j < 3; j++)
      for (int i = 0; i < 3; i++) turn[j * 3 + i] += N[j] * n[i];
  }
  for (int q = 0; q < 9; q++) sums[q] = turn[q];
}

// A point is part of its four neighbours' differences. Gradients of depth and alpha, and of fx, cx, fy, cy.
ROW gather_row(const View v, const float *z, const float *slopes, int y, float *to_depth, float *to_alpha, double *sums) {
  const float ray_y = v.ray_y(y);
  float fx = 0.f, cx = 0.f, fy = 0.f, cy = 0.f;
#pragma omp simd reduction(+ : fx, cx, fy, cy)
  for (int x = 0; x < v.w; x++) {
    const size_t here = (size_t)y * v.w + x;
    float point[3];
    for (int q = 0; q < 3; q++) {
      const float *a = slopes + q * v.size + here, *d = slopes + (3 + q) * v.size + here;
      point[q] = (x > 0 ? a[-1] : 0.f) - (x < v.w - 1 ? a[1] : 0.f) + (y > 0 ? d[-v.w] : 0.f) - (y < v.h - 1 ? d[v.w] : 0.f);
    }
    const float ray_x = v.ray_x(x), to_z = point[0] * ray_x + point[1] * ray_y + point[2];
    const float opaque = v.alpha[here], inverse = 1.f / std::max(opaque, LEAST_ALPHA);
    to_depth[here] = to_z * inverse;
    to_alpha[here] = opaque < LEAST_ALPHA ? 0.f : -to_z * z[here] * inverse;
    fx -= point[0] * ray_x * z[here], cx -= point[0] * z[here];
    fy -= point[1] * ray_y * z[here], cy -= point[1] * z[here];
  }
  const float of_K[4] = {fx * v.inverse_fx, cx * v.inverse_fx, fy * v.inverse_fy, cy * v.inverse_fy};
  for (int q = 0; q < 4; q++) sums[9 + q] = of_K[q];
}

}  // namespace

extern "C" {
// depth, alpha [v h w], normal [v 3 h w], poses [v 4 4], K [v 3 3] -> 1 - n . N [v h w]: see losses.normal_consistency. These
// return an Outcome.
int fourdgen_normals_forward(const float *depth, const float *alpha, const float *normal, const float *poses, const float *K,
                             int views, int h, int w, float *out, int threads) {
  return outcome_of([&] {
    std::fill_n(out, (size_t)views * h * w, 0.f);
    static thread_local Buffer<float> kept;
    for (int view = 0; view < views; view++) {
      const View v(view, depth, alpha, normal, poses, K, w, h);
      float *z = kept.resize(v.size);
      divide(v, z);
      parallel_even(std::max(h - 2, 0), threads, [&](int row) { bend_row(v, z, row + 1, out + view * v.size); });
    }
  });
}

// From the gradient of that, `grad` [v h w], those of everything, written.
int fourdgen_normals_backward(const float *depth, const float *alpha, const float *normal, const float *poses, const float *K,
                              int views, int h, int w, const float *grad, float *to_depth, float *to_alpha, float *to_normal,
                              float *to_poses, float *to_K, int threads) {
  return outcome_of([&] {
    static thread_local Buffer<float> kept;
    static thread_local Buffer<double> kept_sums;
    for (int view = 0; view < views; view++) {
      const View v(view, depth, alpha, normal, poses, K, w, h);
      const size_t first = view * v.size;
      float *z = kept.resize(7 * v.size), *slopes = z + v.size;
      double *sums = kept_sums.resize((size_t)h * SUMS);
      std::fill_n(sums, (size_t)h * SUMS, 0.);
      std::fill_n(slopes, 6 * v.size, 0.f);
      std::fill_n(to_normal + 3 * first, 3 * v.size, 0.f);
      divide(v, z);
      parallel_even(std::max(h - 2, 0), threads, [&](int row) {
        differentiate_row(v, z, grad + first, row + 1, to_normal + 3 * first, slopes, sums + (row + 1) * (size_t)SUMS);
      });
      parallel_even(h, threads, [&](int y) {
        gather_row(v, z, slopes, y, to_depth + first, to_alpha + first, sums + y * (size_t)SUMS);
      });
      double total[SUMS] = {};
      for (int y = 0; y < h; y++)
        for (int q = 0; q < SUMS; q++) total[q] += sums[(size_t)y * SUMS + q];
      float *pose = to_poses + view * 16, *k = to_K + view * 9;
      std::fill_n(pose, 16, 0.f), std::fill_n(k, 9, 0.f);
      for (int j = 0; j < 3; j++)
        for (int i = 0; i < 3; i++) pose[j * 4 + i] = (float)total[j * 3 + i];
      k[0] = (float)total[9], k[2] = (float)total[10], k[4] = (float)total[11], k[5] = (float)total[12];
    }
  });
}
}
