// Dual-quaternion linear blend skinning (Kavan et al. 2007), fused: softmax of the logits of Gaussian bones, blend, and the
// motion of surfels. Or each surfel names a few bones and their weights.
#include <algorithm>
#include <cstdint>
#include <numeric>

#include "parallel.h"
#include "simd.h"

namespace {

constexpr int PARTS = 16;  // work items; fixed, so that sums do not depend on the number of threads

constexpr int SUMS = 8 + 6;  // vectors of partial sums of a bone: dual quaternion, centre, precision

// The logit of a bone is -sum_k precision_k (p_k - center_k)^2.
struct Bones {
  int count;
  const float *centers, *precisions, *dual_quats;  // [b 3] [b 3] [b 8]
  bool flips;  // whether any two bones lie in opposite half spaces, so that signs matter
  Float logit(int bone, const Vec3 &p) const {
    const float *c = centers + bone * 3, *a = precisions + bone * 3;
    const Float x = p.x - splat(c[0]), y = p.y - splat(c[1]), z = p.z - splat(c[2]);
    return fnma(splat(a[2]) * z, z, fnma(splat(a[1]) * y, y, splat(-a[0]) * x * x));
  }
  // From the gradient v of a logit: adds to that of p, and to the sums (without the factor of a centre, 2 precision).
  void logit_backward(int bone, Float v, const Vec3 &p, Vec3 &to_p, Float *sums) const {
    const float *c = centers + bone * 3, *a = precisions + bone * 3;
    const Float points[3] = {p.x, p.y, p.z};
    Float *to[3] = {&to_p.x, &to_p.y, &to_p.z};
    for (int k = 0; k < 3; k++) {
      const Float away = points[k] - splat(c[k]), pull = v * away;
      *to[k] = fnma(splat(2.f * a[k]), pull, *to[k]);
      sums[k] = sums[k] + pull;
      sums[3 + k] = fnma(pull, away, sums[3 + k]);
    }
  }
};

Bones prepare(const float *centers, const float *precisions, const float *dual_quats, int count) {
  Bones bones{count, centers, precisions, dual_quats, false};
  for (int a = 0; a < count; a++)
    for (int b = 0; b < a; b++) {
      float d = 0.f;
      for (int k = 0; k < 4; k++) d += dual_quats[a * 8 + k] * dual_quats[b * 8 + k];
      bones.flips |= d < 0.f;
    }
  return bones;
}

// The unit dual quaternion (r, d) of LANES surfels; `weight` gets the weights times their total, `signed_weight` those with
// signs.
struct Blend {
  Float r[4], d[4], inverse_norm, inverse_total;
};
Blend blend(const Bones &bones, const Vec3 &p, Float *weight, Float *signed_weight) {
  Float largest = splat(-INFINITY), pivot[4] = {splat(1.f), splat(0.f), splat(0.f), splat(0.f)};
  for (int b = 0; b < bones.count; b++) {
    weight[b] = bones.logit(b, p);
    if (bones.flips) {
      const Mask heavier = gt(weight[b], largest);
      for (int k = 0; k < 4; k++) pivot[k] = select(heavier, splat(bones.dual_quats[b * 8 + k]), pivot[k]);
    }
    largest = max(weight[b], largest);
  }
  Float total = splat(0.f), mixed[8];
  for (int k = 0; k < 8; k++) mixed[k] = splat(0.f);
  for (int b = 0; b < bones.count; b++) {
    const float *dq = bones.dual_quats + b * 8;
    weight[b] = exp2((weight[b] - largest) * splat(1.44269504f));
    total = total + weight[b];
    Float w = weight[b];
    if (bones.flips) {
      const Float agree = pivot[0] * splat(dq[0]) + pivot[1] * splat(dq[1]) + pivot[2] * splat(dq[2]) + pivot[3] * splat(dq[3]);
      w = select(gt(splat(0.f), agree), splat(0.f) - w, w);
    }
    signed_weight[b] = w;
    for (int k = 0; k < 8; k++) mixed[k] = fma(w, splat(dq[k]), mixed[k]);
  }
  Blend out;
  out.inverse_total = splat(1.f) / total;
  for (int k = 0; k < 8; k++) mixed[k] = mixed[k] * out.inverse_total;
  const Float norm2 = mixed[0] * mixed[0] + mixed[1] * mixed[1] + mixed[2] * mixed[2] + mixed[3] * mixed[3];
  out.inverse_norm = splat(1.f) / sqrt(max(norm2, splat(1e-18f)));
  for (int k = 0; k < 4; k++) out.r[k] = mixed[k] * out.inverse_norm, out.d[k] = mixed[4 + k] * out.inverse_norm;
  return out;
}

void store_rows(float *p, int width, int first, int count, const Float *columns) {
  alignas(64) float t[8][LANES];
  for (int k = 0; k < width; k++) store(t[k], columns[k]);
  for (int j = 0; j < count; j++)
    for (int k = 0; k < width; k++) p[(size_t)(first + j) * width + k] = t[k][j];
}

// First surfel of a part; parts are whole vectors.
int part_begin(int part, int n) {
  const int64_t blocks = (n + LANES - 1) / LANES;
  return (int)std::min<int64_t>(n, blocks * part / PARTS * LANES);
}

// What a unit dual quaternion (r, d) makes of LANES surfels, written.
void move_and_store(const Float *r, const Float *d, const Float *m, const Float *q, int i, int count, float *out_means,
                    float *out_quats, float *out_turned) {
  const Vec3 u = {r[1], r[2], r[3]}, e = {d[1], d[2], d[3]}, p = {m[0], m[1], m[2]};
  const Float w = r[0], two = splat(2.f);
  const Vec3 t = cross(u, p) * two;
  const Vec3 moved = p + t * w + cross(u, t) + (e * w + u * (splat(0.f) - d[0]) + cross(u, e)) * two;
  const Float mean[3] = {moved.x, moved.y, moved.z};
  const Float quat[4] = {w * q[0] - u.x * q[1] - u.y * q[2] - u.z * q[3], w * q[1] + u.x * q[0] + u.y * q[3] - u.z * q[2],
                         w * q[2] - u.x * q[3] + u.y * q[0] + u.z * q[1], w * q[3] + u.x * q[2] - u.y * q[1] + u.z * q[0]};
  store_rows(out_means, 3, i, count, mean);
  store_rows(out_quats, 4, i, count, quat);
  if (out_turned) store_rows(out_turned, 4, i, count, r);
}

}  // namespace

extern "C" {
// centers [b 3], precisions [b 3] (1 / extent^2), dual_quats [b 8], means [n 3], quats [n 4] -> moved means and quats, and
// the blended rotation [n 4] or null. These return an Outcome.
int fourdgen_skin_gaussian_forward(const float *centers, const float *precisions, const float *dual_quats, const float *means,
                                   const float *quats, int n, int b, float *out_means, float *out_quats, float *out_turned,
                                   int threads) {
  const Bones bones = prepare(centers, precisions, dual_quats, b);
  auto skin_part = [&](int part) {
    static thread_local Buffer<Float> scratch;
    Float *weight = scratch.resize(2 * (size_t)b);
    for (int i = part_begin(part, n), end = part_begin(part + 1, n); i < end; i += LANES) {
      const int count = std::min(LANES, end - i);
      Float m[3], q[4];
      load_rows<3>(means, i, count, m);
      load_rows<4>(quats, i, count, q);
      const Blend s = blend(bones, {m[0], m[1], m[2]}, weight, weight + b);
      move_and_store(s.r, s.d, m, q, i, count, out_means, out_quats, out_turned);
    }
  };
  return outcome_of([&] { parallel_even(PARTS, threads, skin_part); });
}

// Gradients of everything; `grad_turned`, `to_means` and `to_quats` may be null. `to_bones` [b 6]: of the centers, then of the
// precisions, of each bone. The choice of signs has no gradient.
int fourdgen_skin_gaussian_backward(const float *centers, const float *precisions, const float *dual_quats, const float *means,
                                    const float *quats, int n, int b, const float *grad_means, const float *grad_quats,
                                    const float *grad_turned, float *to_bones, float *to_dual_quats, float *to_means,
                                    float *to_quats, int threads) {
  const Bones bones = prepare(centers, precisions, dual_quats, b);
  static thread_local Buffer<Float> kept;
  auto differentiate_part = [&](int part, Float *sums) {
    static thread_local Buffer<Float> scratch;
    Float *weight = scratch.resize(3 * (size_t)b), *signed_weight = weight + b, *grad_weight = weight + 2 * b;
    std::fill(sums, sums + b * SUMS, splat(0.f));
    for (int i = part_begin(part, n), end = part_begin(part + 1, n); i < end; i += LANES) {
      const int count = std::min(LANES, end - i);
      const Float zero = splat(0.f), two = splat(2.f);
      Float m[3], q[4], g[3], h[4], k[4] = {zero, zero, zero, zero};
      load_rows<3>(means, i, count, m);
      load_rows<4>(quats, i, count, q);
      const Vec3 p = {m[0], m[1], m[2]};
      const Blend s = blend(bones, p, weight, signed_weight);
      load_rows<3>(grad_means, i, count, g);
      load_rows<4>(grad_quats, i, count, h);
      if (grad_turned) load_rows<4>(grad_turned, i, count, k);
      if (count < LANES) {
        alignas(64) float real[LANES];
        for (int j = 0; j < LANES; j++) real[j] = j < count ? 1.f : 0.f;
        const Mask in_range = gt(load(real), zero);
        for (Float &v : g) v = keep(in_range, v);
        for (Float &v : h) v = keep(in_range, v);
        for (Float &v : k) v = keep(in_range, v);
      }
      // moved = p + 2 w (u x p) + 2 u x (u x p) + 2 (w e - d0 u + u x e)
      const Vec3 u = {s.r[1], s.r[2], s.r[3]}, e = {s.d[1], s.d[2], s.d[3]}, G = {g[0], g[1], g[2]};
      const Float w = s.r[0];
      const Vec3 t = cross(u, p) * two, to_t = G * w + cross(G, u);
      Float to_w = dot(G, t) + two * dot(G, e);
      Vec3 to_u = cross(t, G) + cross(p, to_t) * two + (G * (zero - s.d[0]) + cross(e, G)) * two;
      Vec3 to_p = G + cross(to_t, u) * two;
      const Vec3 to_e = (G * w + cross(G, u)) * two;
      const Float to_d0 = zero - two * dot(G, u);
      // the turned quaternion r q
      to_w = to_w + h[0] * q[0] + h[1] * q[1] + h[2] * q[2] + h[3] * q[3] + k[0];
      to_u.x = to_u.x - h[0] * q[1] + h[1] * q[0] - h[2] * q[3] + h[3] * q[2] + k[1];
      to_u.y = to_u.y - h[0] * q[2] + h[1] * q[3] + h[2] * q[0] - h[3] * q[1] + k[2];
      to_u.z = to_u.z - h[0] * q[3] - h[1] * q[2] + h[2] * q[1] + h[3] * q[0] + k[3];
      if (to_quats) {
        const Float quat[4] = {w * h[0] + u.x * h[1] + u.y * h[2] + u.z * h[3], w * h[1] - u.x * h[0] + u.z * h[2] - u.y * h[3],
                               w * h[2] - u.y * h[0] - u.z * h[1] + u.x * h[3], w * h[3] - u.z * h[0] + u.y * h[1] - u.x * h[2]};
        store_rows(to_quats, 4, i, count, quat);
      }
      // through the division by the norm of the real part, and by the total of the weights
      const Float real[4] = {to_w, to_u.x, to_u.y, to_u.z}, dual[4] = {to_d0, to_e.x, to_e.y, to_e.z};
      Float along = zero, mixed[8];
      for (int j = 0; j < 4; j++) along = along + real[j] * s.r[j] + dual[j] * s.d[j];
      for (int j = 0; j < 4; j++) {
        mixed[j] = (real[j] - along * s.r[j]) * s.inverse_norm * s.inverse_total;
        mixed[4 + j] = dual[j] * s.inverse_norm * s.inverse_total;
      }
      Float mean_grad = zero;
      for (int bone = 0; bone < b; bone++) {
        const float *dq = dual_quats + bone * 8;
        Float a = zero;
        for (int j = 0; j < 8; j++) a = fma(mixed[j], splat(dq[j]), a);
        for (int j = 0; j < 8; j++) sums[bone * SUMS + j] = fma(signed_weight[bone], mixed[j], sums[bone * SUMS + j]);
        grad_weight[bone] = a;
        mean_grad = fma(signed_weight[bone], a, mean_grad);
      }
      mean_grad = mean_grad * s.inverse_total;
      for (int bone = 0; bone < b; bone++) {
        const Float v = fma(signed_weight[bone], grad_weight[bone], zero - weight[bone] * mean_grad);
        bones.logit_backward(bone, v, p, to_p, sums + bone * SUMS + 8);
      }
      if (to_means) {
        const Float mean[3] = {to_p.x, to_p.y, to_p.z};
        store_rows(to_means, 3, i, count, mean);
      }
    }
  };
  return outcome_of([&] {
    Float *partial = kept.resize((size_t)PARTS * b * SUMS);
    parallel_even(PARTS, threads, [&](int part) { differentiate_part(part, partial + (size_t)part * b * SUMS); });
    auto total = [&](int bone, int j) {
      float t = 0.f;
      for (int part = 0; part < PARTS; part++) t += sum(partial[((size_t)part * b + bone) * SUMS + j]);
      return t;
    };
    for (int bone = 0; bone < b; bone++) {
      for (int j = 0; j < 8; j++) to_dual_quats[bone * 8 + j] = total(bone, j);
      for (int k = 0; k < 3; k++) to_bones[bone * 6 + k] = 2.f * precisions[bone * 3 + k] * total(bone, 8 + k);
      for (int k = 3; k < 6; k++) to_bones[bone * 6 + k] = total(bone, 8 + k);
    }
  });
}

// Forward only: surfels that name `k` bones each, ids [n k] and weights [n k]. Signs follow the first heaviest bone. Returns
// how many ids name none of the `b` bones (the results are then of no use).
int fourdgen_skin_sparse(const int32_t *ids, const float *weights, int k, const float *dual_quats, int b, const float *means,
                         const float *quats, int n, float *out_means, float *out_quats, float *out_turned, int threads) {
  int unknown[PARTS] = {};
  parallel_even(PARTS, threads, [&](int part) {
    int strange = 0;  // counted here, not in `unknown`: threads would fight over its cache line
    auto bone_of = [&](int32_t id) {
      const bool known = id >= 0 && id < b;
      strange += !known;
      return dual_quats + (known ? id : 0) * 8;
    };
    for (int i = part_begin(part, n), end = part_begin(part + 1, n); i < end; i += LANES) {
      const int count = std::min(LANES, end - i);
      alignas(64) float lanes[8][LANES];
      for (int j = 0; j < LANES; j++) {
        const size_t surfel = i + std::min(j, count - 1);
        const int32_t *id = ids + surfel * k;
        const float *weight = weights + surfel * k, *pivot = bone_of(id[std::max_element(weight, weight + k) - weight]);
        float mixed[8] = {};
        for (int bone = 0; bone < k; bone++) {
          const float *dq = bone_of(id[bone]);
          const float agree = pivot[0] * dq[0] + pivot[1] * dq[1] + pivot[2] * dq[2] + pivot[3] * dq[3];
          const float w = agree < 0.f ? -weight[bone] : weight[bone];
          for (int q = 0; q < 8; q++) mixed[q] += w * dq[q];
        }
        for (int q = 0; q < 8; q++) lanes[q][j] = mixed[q];
      }
      Float r[4], d[4], m[3], q[4], norm2 = splat(0.f);
      for (int a = 0; a < 4; a++) r[a] = load(lanes[a]), d[a] = load(lanes[4 + a]), norm2 = fma(r[a], r[a], norm2);
      const Float inverse_norm = splat(1.f) / sqrt(max(norm2, splat(1e-18f)));
      for (int a = 0; a < 4; a++) r[a] = r[a] * inverse_norm, d[a] = d[a] * inverse_norm;
      load_rows<3>(means, i, count, m);
      load_rows<4>(quats, i, count, q);
      move_and_store(r, d, m, q, i, count, out_means, out_quats, out_turned);
    }
    unknown[part] = strange;
  });
  return std::accumulate(unknown, unknown + PARTS, 0);
}
}
