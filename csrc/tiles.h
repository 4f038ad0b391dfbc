// Compositing one tile, forward and backward. Planes interleave two rows, so that one unaligned load is a block of
// 2 x LANES/2 pixels at any x. Measured: surfel-centred visits with branch-free compositing beat per-pixel lists 2-3 times.
#pragma once
#include <algorithm>
#include <cstddef>
#include "raster.h"

constexpr float EXPONENT = -0.72134752044f;  // exp(-q / 2) = 2^(EXPONENT q)

template <class T> static inline void pack(T *__restrict plane, const T *__restrict image, size_t stride, int w, int h) {
  for (int y = 0; y < h; y += BLOCK_H) {
    T *__restrict d = plane + (y / BLOCK_H) * ROW_PAIR;
    const T *__restrict row0 = image + y * stride, *__restrict row1 = row0 + stride;
    if (y + 1 < h)
      for (int x = 0; x < w; x++) d[2 * x] = row0[x], d[2 * x + 1] = row1[x];
    else
      for (int x = 0; x < w; x++) d[2 * x] = row0[x];
  }
}
template <class T> static inline void unpack(T *__restrict image, const T *__restrict plane, size_t stride, int w, int h) {
  for (int y = 0; y < h; y += BLOCK_H) {
    const T *__restrict d = plane + (y / BLOCK_H) * ROW_PAIR;
    T *__restrict row0 = image + y * stride, *__restrict row1 = row0 + stride;
    if (y + 1 < h)
      for (int x = 0; x < w; x++) row0[x] = d[2 * x], row1[x] = d[2 * x + 1];
    else
      for (int x = 0; x < w; x++) row0[x] = d[2 * x];
  }
}

// Where a tile lies and which surfels it holds.
struct TileArea {
  int x, y, w, h;      // pixels
  int column, row;     // of tiles
  int used;            // floats of a plane that are read or written
  int begin, end;      // range of members
  size_t pixel0, size;  // first pixel and number of pixels in its image
  int view;
};
static inline TileArea tile_area(const Workspace &ws, const Scene &scene, int index) {
  const int per_view = ws.tiles_x * ws.tiles_y, tile = index % per_view;
  TileArea t;
  t.view = index / per_view;
  t.column = tile % ws.tiles_x, t.row = tile / ws.tiles_x;
  t.x = t.column * ws.tile_w, t.y = t.row * ws.tile_h;
  t.w = std::min(ws.tile_w, scene.width - t.x), t.h = std::min(ws.tile_h, scene.height - t.y);
  t.used = (t.h + 1) / BLOCK_H * ROW_PAIR + LANES;
  t.begin = ws.tile_begin.data()[index], t.end = ws.tile_begin.data()[index + 1];
  t.size = (size_t)scene.width * scene.height;
  t.pixel0 = (size_t)t.y * scene.width + t.x;
  return t;
}

// 1 in the tile's pixels and 0 in the padding, where then nothing is ever composited.
static inline void start_transmittance(float *T, const TileArea &t) {
  std::fill(T, T + t.used, 0.f);
  const int pairs = t.h / BLOCK_H;
  for (int pair = 0; pair < pairs; pair++) std::fill_n(T + pair * ROW_PAIR, t.w * BLOCK_H, 1.f);
  if (t.h % BLOCK_H)
    for (int x = 0; x < t.w; x++) T[pairs * ROW_PAIR + x * BLOCK_H] = 1.f;
}
static inline bool any_pixel_open(const float *T, int h) {
  for (int p = 0, end = (h + 1) / BLOCK_H * ROW_PAIR; p < end; p += LANES)
    if (any(gt(load(T + p), splat(0.f)))) return true;
  return false;
}

// A surfel's place in a tile.
struct Visit {
  int x0, x1, y0, y1;
  float left, top;  // pixel centre of (x0, y0) minus mean2d
  template <int C> Visit(const Record<C> &r, const TileArea &t) {
    x0 = std::max<int>(r.x0 - t.x, 0), x1 = std::min<int>(r.x1 - t.x, t.w - 1);
    y0 = std::max<int>(r.y0 - t.y, 0) / BLOCK_H * BLOCK_H, y1 = std::min<int>(r.y1 - t.y, t.h - 1);
    left = (x0 + t.x) + 0.5f - r.mx, top = (y0 + t.y) + 0.5f - r.my;
  }
};
// The slot that a surfel has in a tile.
template <int C> static inline int32_t slot_of(const Workspace &ws, const Scene &scene, const TileArea &t, int surfel, const Record<C> &r) {
  const int32_t first = ws.slot_begin.data()[(size_t)t.view * scene.surfels + surfel];
  return first + (t.row - r.row0) * (r.column1 - r.column0 + 1) + t.column - r.column0;
}

struct LaneOffsets {
  Float x, y;
};
static inline LaneOffsets lane_offsets() {
  alignas(64) float x[LANES], y[LANES];
  for (int i = 0; i < LANES; i++) x[i] = i / BLOCK_H, y[i] = i % BLOCK_H;
  return {load(x), load(y)};
}

// Records lie all over memory: they are asked for a few surfels ahead. (A macro, since GCC takes a function that does
// nothing but this for one without effect, and drops its calls.)
#define PREFETCH_RECORD(i)                                                                   \
  if ((i) + 4 < t.end) {                                                                     \
    const char *next_record = reinterpret_cast<const char *>(records + members[(i) + 4]); \
    __builtin_prefetch(next_record);                                                         \
    __builtin_prefetch(next_record + 64);                                                    \
  }

template <int C> struct ForwardPlanes {
  alignas(64) float T[PLANE];
  alignas(64) int32_t median_id[PLANE];
  alignas(64) float color[C][PLANE], normal[3][PLANE], depth[PLANE], median[PLANE];  // zeroed for every tile
  alignas(64) float distortion[PLANE], depth_before[PLANE], end[1];                    // these only with EXTRA
};

static inline void empty_tile(const Scene &scene, const TileArea &t, const Images &out) {
  const size_t v = t.view;
  for (int y = 0; y < t.h; y++) {
    const size_t o = t.pixel0 + (size_t)y * scene.width, p = v * t.size + o;
    for (int c = 0; c < scene.channels; c++) {
      float *row = out.rgb + (v * scene.channels + c) * t.size + o;
      std::fill(row, row + t.w, scene.background ? scene.background[v * scene.channels + c] : 0.f);
    }
    for (int k = 0; k < 3; k++) std::fill_n(out.normal + (v * 3 + k) * t.size + o, t.w, 0.f);
    for (float *image : {out.alpha, out.depth, out.median, out.distortion})
      if (image) std::fill_n(image + p, t.w, 0.f);
    std::fill_n(out.median_id + p, t.w, -1);
  }
}

// From planes to pictures, with the background behind the colours. T becomes alpha.
template <int C, bool EXTRA> static void write_tile(const Scene &scene, const TileArea &t, ForwardPlanes<C> &s, const Images &out) {
  const int stride = scene.width;
  const size_t v = t.view, p = v * t.size + t.pixel0;
  for (int o = 0; o < (t.h + 1) / BLOCK_H * ROW_PAIR; o += LANES) {
    const Float T = abs(load(s.T + o));
    if (scene.background)
      for (int k = 0; k < scene.channels; k++)
        store(s.color[k] + o, fma(splat(scene.background[v * scene.channels + k]), T, load(s.color[k] + o)));
    store(s.T + o, splat(1.f) - T);
  }
  unpack(out.alpha + p, s.T, stride, t.w, t.h);
  for (int k = 0; k < scene.channels; k++)
    unpack(out.rgb + (v * scene.channels + k) * t.size + t.pixel0, s.color[k], stride, t.w, t.h);
  for (int k = 0; k < 3; k++) unpack(out.normal + (v * 3 + k) * t.size + t.pixel0, s.normal[k], stride, t.w, t.h);
  unpack(out.depth + p, s.depth, stride, t.w, t.h);
  unpack(out.median + p, s.median, stride, t.w, t.h);
  unpack(out.median_id + p, s.median_id, stride, t.w, t.h);
  if (EXTRA && out.distortion) unpack(out.distortion + p, s.distortion, stride, t.w, t.h);
}

// EXTRA: depth distortion and per-surfel sums as well. The only branch within a block is the one that is known early, on
// whether all its pixels have stopped (in trained scenes a quarter of the blocks): a mispredicted branch on what a long
// computation gives costs more than the arithmetic that it spares.
template <int C, bool EXTRA>
static void composite_forward(Workspace &ws, const Scene &scene, int index, ForwardPlanes<C> &s, const Images &out) {
  const TileArea t = tile_area(ws, scene, index);
  if (t.begin == t.end) return empty_tile(scene, t, out);
  for (float *plane = s.color[0]; plane < (EXTRA ? s.end : s.distortion); plane += PLANE) std::fill_n(plane, t.used, 0.f);
  std::fill_n(s.median_id, t.used, -1);
  start_transmittance(s.T, t);
  const LaneOffsets lane = lane_offsets();
  const int32_t *members = ws.members.data();
  const Record<C> *records = ws.records_of<C>(t.view, scene.surfels);
  const Float zero = splat(0.f), one = splat(1.f), two = splat(2.f);
  int i = t.begin;
  while (i < t.end) {
    PREFETCH_RECORD(i)
    const Record<C> &r = records[members[i]];
    const Visit visit(r, t);
    const Float a0 = splat(r.a0), a1 = splat(r.a1), a2 = splat(r.a2), b0 = splat(r.b0), b1 = splat(r.b1), b2 = splat(r.b2);
    const Float c0 = splat(r.c0), c1 = splat(r.c1), reach = splat(r.reach), opacity = splat(r.opacity);
    const Int id = splat_int(members[i]);
    Float weight_sum = zero, pixel_sum = zero;
    for (int y = visit.y0; y <= visit.y1; y += BLOCK_H) {
      const Float dy = lane.y + splat(visit.top + (y - visit.y0)), dy2 = dy * dy;
      const Float row0 = fma(b0, dy, c0), row1 = fma(b1, dy, c1), row2 = fma(b2, dy, one);
      for (int x = visit.x0; x <= visit.x1; x += BLOCK_W) {
        const int o = y / BLOCK_H * ROW_PAIR + x * BLOCK_H;
        const Float T = load(s.T + o);
        if (!EXTRA && !any(gt(T, zero))) continue;  // (hidden pixels count among a surfel's pixels)
        const Float dx = lane.x + splat(visit.left + (x - visit.x0));
        const Float inverse = reciprocal(fma(a2, dx, row2));
        const Float u = fma(a0, dx, row0) * inverse, v = fma(a1, dx, row1) * inverse;
        const Float q_plane = fma(u, u, v * v), q_disc = two * fma(dx, dx, dy2), q = min(q_plane, q_disc);
        const Mask inside = le(q, reach);
        const Float alpha = min(splat(ALPHA_MAX), opacity * exp2(q * splat(EXPONENT)));
        const Float T_next = fnma(alpha, T, T);
        const Mask seen = both(inside, gt(T_next, splat(STOP)));
        // a negative T marks a pixel that has stopped; all that follows fails the test above
        store(s.T + o, select(seen, T_next, select(inside, minus_abs(T), T)));
        const Float w = keep(seen, alpha * T);
        // where the low-pass disc wins, the depth is that of the centre; elsewhere |u|, |v| < 3.4 bound it
        const Float z = splat(r.z) + keep(both(seen, le(q_plane, q_disc)), fma(u, splat(r.zu), v * splat(r.zv)));
        if (EXTRA) {
          const Float wz = w * z, before = load(s.depth_before + o);
          store(s.distortion + o, load(s.distortion + o) + two * (wz * (one - abs(T)) - w * before));
          store(s.depth_before + o, before + wz);
          weight_sum = weight_sum + w;
          pixel_sum = pixel_sum + keep(both(inside, gt(abs(T), zero)), one);
        }
#pragma GCC unroll 16
        for (int k = 0; k < C; k++) store(s.color[k] + o, fma(w, splat(r.color[k]), load(s.color[k] + o)));
#pragma GCC unroll 3
        for (int k = 0; k < 3; k++) store(s.normal[k] + o, fma(w, splat(r.normal[k]), load(s.normal[k] + o)));
        store(s.depth + o, fma(w, z, load(s.depth + o)));
        const Mask front = both(seen, gt(T, splat(0.5f)));
        store_where(s.median + o, front, z);
        store_where(s.median_id + o, front, id);
      }
    }
    if (EXTRA && out.weight) {
      ws.member_of.data()[slot_of(ws, scene, t, members[i], r)] = i;
      ws.gathered.data()[2 * (size_t)i] = sum(weight_sum), ws.gathered.data()[2 * (size_t)i + 1] = sum(pixel_sum);
    }
    i++;
    if (((i - t.begin) & 63) == 0 && !(EXTRA && out.weight) && !any_pixel_open(s.T, t.h)) break;
  }
  write_tile<C, EXTRA>(scene, t, s, out);
}

template <int C> struct BackwardPlanes {
  alignas(64) float T[PLANE], rest[PLANE], color[C][PLANE], scratch[PLANE];        // zeroed for every tile
  alignas(64) float normal[3][PLANE], depth[PLANE], median[PLANE];                 // these only with GEOMETRY
  alignas(64) int32_t median_id[PLANE];
  alignas(64) float distortion[PLANE], depth_before[PLANE], alpha_total[PLANE], depth_total[PLANE], end[1];  // and these with DIST
};

// Loads the tile's gradients. `rest` starts as sum_k g_k out_k - T_final g_alpha: the gradient that lies behind a surfel is
// what remains of it after the surfels so far, so that the forward order is replayed without dividing to recover T.
template <int C, bool GEOMETRY, bool DIST>
static void load_gradients(const Scene &scene, const TileArea &t, BackwardPlanes<C> &s, const Images &out, const ImageGrads &g) {
  for (float *plane = s.T; plane < (DIST ? s.end : GEOMETRY ? s.distortion : s.normal[0]); plane += PLANE)
    std::fill_n(plane, t.used, 0.f);
  const int stride = scene.width, count = (t.h + 1) / BLOCK_H * ROW_PAIR;
  const size_t v = t.view, p = v * t.size + t.pixel0;
  float *values = s.T;  // until the loop over surfels starts
  auto add = [&](float *grad, const float *grad_image, const float *image, size_t offset, float factor) {
    pack(grad, grad_image + offset, stride, t.w, t.h);
    pack(values, image + offset, stride, t.w, t.h);
    for (int o = 0; o < count; o += LANES)
      store(s.rest + o, fma(splat(factor) * load(grad + o), load(values + o), load(s.rest + o)));
  };
  if (g.rgb)
    for (int k = 0; k < scene.channels; k++)
      add(s.color[k], g.rgb, out.rgb, (v * scene.channels + k) * t.size + t.pixel0, 1.f);
  if (g.normal)
    for (int k = 0; k < 3; k++) add(s.normal[k], g.normal, out.normal, (v * 3 + k) * t.size + t.pixel0, 1.f);
  if (g.depth) add(s.depth, g.depth, out.depth, p, 1.f);
  if (DIST) {
    add(s.distortion, g.distortion, out.distortion, p, 2.f);
    pack(s.alpha_total, out.alpha + p, stride, t.w, t.h);
    pack(s.depth_total, out.depth + p, stride, t.w, t.h);
  }
  if (g.alpha) {
    pack(values, out.alpha + p, stride, t.w, t.h);
    pack(s.scratch, g.alpha + p, stride, t.w, t.h);
    for (int o = 0; o < count; o += LANES)
      store(s.rest + o, fnma(splat(1.f) - load(values + o), load(s.scratch + o), load(s.rest + o)));
  }
  if (g.median) {
    pack(s.median, g.median + p, stride, t.w, t.h);
    pack(s.median_id, out.median_id + p, stride, t.w, t.h);
  }
  start_transmittance(s.T, t);
}

// GEOMETRY: there are gradients of depth, median, normal or distortion. DIST: of distortion.
template <int C, bool GEOMETRY, bool DIST>
static void composite_backward(Workspace &ws, const Scene &scene, int index, BackwardPlanes<C> &s, const Images &out,
                               const ImageGrads &grads) {
  const TileArea t = tile_area(ws, scene, index);
  if (t.begin == t.end) return;
  load_gradients<C, GEOMETRY, DIST>(scene, t, s, out, grads);
  const LaneOffsets lane = lane_offsets();
  const int32_t *members = ws.members.data();
  const Record<C> *records = ws.records_of<C>(t.view, scene.surfels);
  const Float zero = splat(0.f), one = splat(1.f), two = splat(2.f);
  const bool with_median = grads.median != nullptr;
  int i = t.begin;
  while (i < t.end) {
    PREFETCH_RECORD(i)
    const Record<C> &r = records[members[i]];
    const Visit visit(r, t);
    const Int id = splat_int(members[i]);
    constexpr int N = MOMENTS<C, GEOMETRY>, GROUPS = (N + LANES - 1) / LANES;
    Float c0 = zero, c1 = zero, c2 = zero, b0 = zero, b1 = zero, b2 = zero, a0 = zero, a1 = zero, a2 = zero;
    Float to_x = zero, to_y = zero, to_opacity = zero, to_z = zero, to_zu = zero, to_zv = zero;
    Float to_normal[3] = {zero, zero, zero}, to_color[C];
#pragma GCC unroll 16
    for (int k = 0; k < C; k++) to_color[k] = zero;
    for (int y = visit.y0; y <= visit.y1; y += BLOCK_H) {
      const Float dy = lane.y + splat(visit.top + (y - visit.y0)), dy2 = dy * dy;
      const Float row0 = fma(splat(r.b0), dy, splat(r.c0)), row1 = fma(splat(r.b1), dy, splat(r.c1)), row2 = fma(splat(r.b2), dy, one);
      for (int x = visit.x0; x <= visit.x1; x += BLOCK_W) {
        const int o = y / BLOCK_H * ROW_PAIR + x * BLOCK_H;
        const Float T = load(s.T + o);
        if (!any(gt(T, zero))) continue;
        const Float dx = lane.x + splat(visit.left + (x - visit.x0));
        const Float inverse = reciprocal(fma(splat(r.a2), dx, row2));
        const Float u = fma(splat(r.a0), dx, row0) * inverse, v = fma(splat(r.a1), dx, row1) * inverse;
        const Float q_plane = fma(u, u, v * v), q_disc = two * fma(dx, dx, dy2), q = min(q_plane, q_disc);
        const Mask inside = le(q, splat(r.reach));
        const Float gaussian = exp2(q * splat(EXPONENT)), raw = splat(r.opacity) * gaussian, alpha = min(splat(ALPHA_MAX), raw);
        const Float T_next = fnma(alpha, T, T);
        const Mask seen = both(inside, gt(T_next, splat(STOP)));
        store(s.T + o, select(seen, T_next, select(inside, minus_abs(T), T)));
        const Mask on_plane = both(seen, le(q_plane, q_disc));
        const Float w = keep(seen, alpha * T);
        Float per_weight = zero;  // dL / dw: the sum over outputs of gradient times this surfel's value
#pragma GCC unroll 16
        for (int k = 0; k < C; k++) {
          const Float grad = load(s.color[k] + o);
          per_weight = fma(grad, splat(r.color[k]), per_weight);
          to_color[k] = fma(w, grad, to_color[k]);
        }
        Float grad_z = zero;
        if (GEOMETRY) {
#pragma GCC unroll 3
          for (int k = 0; k < 3; k++) {
            const Float grad = load(s.normal[k] + o);
            per_weight = fma(grad, splat(r.normal[k]), per_weight);
            to_normal[k] = fma(w, grad, to_normal[k]);
          }
          const Float z = splat(r.z) + keep(on_plane, fma(u, splat(r.zu), v * splat(r.zv))), grad = load(s.depth + o);
          per_weight = fma(grad, z, per_weight);
          grad_z = w * grad;
          if (DIST) {
            const Float grad_d = load(s.distortion + o), before = load(s.depth_before + o);
            const Float balance = two * (one - abs(T)) - load(s.alpha_total + o);
            per_weight = fma(two * (z * balance + load(s.depth_total + o) - two * before), grad_d, per_weight);
            grad_z = grad_z + two * w * (balance + w) * grad_d;
            store(s.depth_before + o, fma(w, z, before));
          }
          if (with_median) grad_z = grad_z + keep(both(seen, equal(load_int(s.median_id + o), id)), load(s.median + o));
        }
        const Float rest = fnma(w, per_weight, load(s.rest + o));
        store(s.rest + o, rest);
        const Float grad_alpha = fnma(rest, reciprocal(one - alpha), T * per_weight);
        const Float grad_raw = keep(both(seen, le(raw, splat(ALPHA_MAX))), grad_alpha);
        to_opacity = fma(gaussian, grad_raw, to_opacity);
        const Float grad_half_q = zero - raw * grad_raw;
        const Float on_disc = select(on_plane, zero, grad_half_q);
        to_x = fnma(on_disc, dx, to_x);
        to_y = fnma(on_disc, dy, to_y);
        Float grad_u = grad_half_q * u, grad_v = grad_half_q * v;
        if (GEOMETRY) {
          grad_u = fma(grad_z, splat(r.zu), grad_u);
          grad_v = fma(grad_z, splat(r.zv), grad_v);
          to_z = to_z + grad_z;
          to_zu = to_zu + keep(on_plane, grad_z * u);
          to_zv = to_zv + keep(on_plane, grad_z * v);
        }
        const Float n0 = keep(on_plane, grad_u * inverse), n1 = keep(on_plane, grad_v * inverse);
        const Float n2 = keep(on_plane, zero - (n0 * u + n1 * v));
        c0 = c0 + n0, c1 = c1 + n1, c2 = c2 + n2;
        a0 = fma(n0, dx, a0), a1 = fma(n1, dx, a1), a2 = fma(n2, dx, a2);
        b0 = fma(n0, dy, b0), b1 = fma(n1, dy, b1), b2 = fma(n2, dy, b2);
      }
    }
    Float moments[GROUPS * LANES] = {c0, c1, c2, b0, b1, b2, a0, a1, a2, to_x, to_y, to_opacity};
#pragma GCC unroll 16
    for (int k = 0; k < C; k++) moments[SUM_COLOR + k] = to_color[k];
    if (GEOMETRY) {
      moments[SUM_Z<C>] = to_z, moments[SUM_ZU<C>] = to_zu, moments[SUM_ZV<C>] = to_zv;
      for (int k = 0; k < 3; k++) moments[SUM_NORMAL<C> + k] = to_normal[k];
    }
    ws.member_of.data()[slot_of(ws, scene, t, members[i], r)] = i;
    float *sums = ws.grads.data() + (size_t)i * SLOT<C>;
    // a whole group costs as much as about five single sums
    constexpr int LEFT = N % LANES, WHOLE = N / LANES + (LEFT > 5);
#pragma GCC unroll 8
    for (int k = 0; k < WHOLE; k++) store(sums + k * LANES, sum_each(moments + k * LANES));
    for (int k = WHOLE * LANES; k < N; k++) sums[k] = sum(moments[k]);
    i++;
    if (((i - t.begin) & 63) == 0 && !any_pixel_open(s.T, t.h)) break;
  }
  for (; i < t.end; i++) {
    ws.member_of.data()[slot_of(ws, scene, t, members[i], records[members[i]])] = i;
    std::fill_n(ws.grads.data() + (size_t)i * SLOT<C>, SLOT<C>, 0.f);
  }
}
