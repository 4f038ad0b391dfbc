// Gaussian surfels (2D Gaussian splatting, Huang et al. 2024) on the CPU: projection, tiles, and the way back.
#include "raster.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "binning.h"
#include "gradients.h"
#include "projection.h"
#include "tiles.h"

// Records of LANES surfels. The box holds the pixels where alpha >= ALPHA_MIN on the plane, united with the low-pass disc.
template <int C> static void project_block(const Workspace &ws, const Scene &scene, int view, int first, int count) {
  const size_t n = scene.surfels;
  const Camera camera = load_camera(scene.cam_from_world + view * 16, scene.K + view * 9);
  const float *means = scene.means + (scene.means_per_view ? view * n * 3 : 0);
  const float *quats = scene.quats + (scene.quats_per_view ? view * n * 4 : 0);
  const float *colors = scene.colors + (scene.colors_per_view ? view * n * scene.channels : 0);
  const Projection p = project(camera, means, quats, scene.scales, first, count);
  const Homography h = homography(p);
  const Vec3 a = cross(h.y, h.w), b = cross(h.w, h.x), c = cross(h.x, h.y);
  const Float zero = splat(0.f), half = splat(0.5f), k = splat(1.f) / c.z;
  alignas(64) float opacities[LANES], reaches[LANES];
  for (int j = 0; j < LANES; j++) {
    opacities[j] = scene.opacities[first + (j < count ? j : 0)];
    reaches[j] = opacities[j] > ALPHA_MIN ? 2.f * std::log(opacities[j] / ALPHA_MIN) : -1.f;
  }
  const Float opacity = load(opacities), reach = load(reaches), r2 = max(reach, zero);
  const Float zz = p.tu.z * p.tu.z + p.tv.z * p.tv.z;
  const Float crosses = r2 * zz - p.center.z * p.center.z, inverse = splat(1.f) / crosses;  // < 0: in front of the camera
  const Float ox = r2 * (p.ex_u * p.tu.z + p.ex_v * p.tv.z) * inverse, oy = r2 * (p.ey_u * p.tu.z + p.ey_v * p.tv.z) * inverse;
  const Float hx = sqrt(max(ox * ox - r2 * (p.ex_u * p.ex_u + p.ex_v * p.ex_v) * inverse, zero));
  const Float hy = sqrt(max(oy * oy - r2 * (p.ey_u * p.ey_u + p.ey_v * p.ey_v) * inverse, zero));
  const Float x = splat(camera.fx) * p.sx + splat(camera.cx), y = splat(camera.fy) * p.sy + splat(camera.cy);
  const Float mx = x + p.offset_x, my = y + p.offset_y, disc = sqrt(r2 * half);
  const Float low_x = min(x + ox - hx, mx - disc), high_x = max(x + ox + hx, mx + disc);
  const Float low_y = min(y + oy - hy, my - disc), high_y = max(y + oy + hy, my + disc);
  Float values[16] = {mx, my, a.x * k, a.y * k, a.z * k, b.x * k, b.y * k, b.z * k, c.x * k, c.y * k,
                      opacity, reach, p.center.z, p.tu.z * p.sloped, p.tv.z * p.sloped, k};
  const Float normals[3] = {p.normal.x * p.facing, p.normal.y * p.facing, p.normal.z * p.facing};
  Float check = zero;  // 0, or NaN where anything is not finite
  for (const Float &v : values) check = fma(v, zero, check);
  for (const Float &v : normals) check = fma(v, zero, check);
  for (const Float &v : {low_x, high_x, low_y, high_y}) check = fma(v, zero, check);
  const Mask in_front = both(both(gt(p.center.z, splat(NEAR)), gt(zero, crosses)), gt(reach, zero));
  // pixel centres within the box, clamped to the picture
  auto last = [&](Float v, int pixels) { return floor(max(min(v - half, splat((float)pixels - 1)), splat(-1.f))); };
  auto begin = [&](Float v, int pixels) { return zero - floor(max(min(half - v, zero), splat(-(float)pixels))); };
  alignas(64) float box[4][LANES], normal[3][LANES], finite[LANES], front[LANES];
  store(box[0], begin(low_x, scene.width)), store(box[1], last(high_x, scene.width));
  store(box[2], begin(low_y, scene.height)), store(box[3], last(high_y, scene.height));
  for (int q = 0; q < 3; q++) store(normal[q], normals[q]);
  store(finite, check), store(front, keep(in_front, splat(1.f)));
  Record<C> *records = ws.records_of<C>(view, scene.surfels) + first;
  for (int q = 0; q < 16; q += LANES) {
    transpose(values + q);
    for (int j = 0; j < count; j++) store(&records[j].mx + q, values[q + j]);
  }
  const int16_t *column_of = ws.tile_of.data(), *row_of = column_of + scene.width;
  for (int j = 0; j < count; j++) {
    Record<C> &r = records[j];
    const float *color = colors + (size_t)(first + j) * scene.channels;
    float all = finite[j];
    for (int q = 0; q < C; q++) {
      r.color[q] = q < scene.channels ? color[q] : 0.f;
      all += 0.f * r.color[q];
    }
    for (int q = 0; q < 3; q++) r.normal[q] = normal[q][j];
    r.x0 = 1, r.x1 = 0, r.y0 = 1, r.y1 = 0;
    if (all == 0.f && front[j] > 0.f && box[0][j] <= box[1][j] && box[2][j] <= box[3][j]) {
      r.x0 = (int16_t)box[0][j], r.x1 = (int16_t)box[1][j], r.y0 = (int16_t)box[2][j], r.y1 = (int16_t)box[3][j];
      r.column0 = column_of[r.x0], r.column1 = column_of[r.x1], r.row0 = row_of[r.y0], r.row1 = row_of[r.y1];
    } else {
      r.inverse_c = 0.f;
    }
  }
}

template <class T> static T &thread_scratch() {
  static thread_local std::unique_ptr<T> scratch(new T);
  return *scratch;
}

template <int C> static void project_part(Workspace &ws, const Scene &scene, int view, int part) {
  const int end = std::min(scene.surfels, (part + 1) * ws.part);
  for (int i = part * ws.part; i < end; i += LANES) project_block<C>(ws, scene, view, i, std::min(LANES, end - i));
  count_part<C>(ws, scene, view, part);
}

template <int C> static void draw_tile(Workspace &ws, const Scene &scene, int tile, const Images &out) {
  sort_tile(ws, ws.tile_begin.data()[tile], ws.tile_begin.data()[tile + 1]);
  auto &planes = thread_scratch<ForwardPlanes<C>>();
  if (out.distortion || out.weight)
    composite_forward<C, true>(ws, scene, tile, planes, out);
  else
    composite_forward<C, false>(ws, scene, tile, planes, out);
}

// Weights and pixels of a part's surfels, from their sums in each tile.
static void gather_part(const Workspace &ws, const Scene &scene, int view, int part, const Images &out) {
  const size_t base = (size_t)view * scene.surfels;
  const int32_t *begin = ws.slot_begin.data();
  for (size_t i = base + part * ws.part, end = base + std::min(scene.surfels, (part + 1) * ws.part); i < end; i++) {
    out.weight[i] = out.pixels[i] = 0.f;
    for (int slot = begin[i]; slot < begin[i + 1]; slot++) {
      const float *sums = ws.gathered.data() + 2 * (size_t)ws.member_of.data()[slot];
      out.weight[i] += sums[0], out.pixels[i] += sums[1];
    }
  }
}

template <int C> static void forward(Workspace &ws, const Scene &scene, const Images &out) {
  lay_out(ws, scene);
  ws.records.resize((size_t)scene.views * scene.surfels * sizeof(Record<C>));
  const int parts = ws.parts;
  parallel_even(scene.views * parts, scene.threads, [&](int i) { project_part<C>(ws, scene, i / parts, i % parts); });
  const int32_t total = add_up(ws, scene);
  if (out.weight) ws.gathered.resize(2 * (size_t)total);
  parallel_even(scene.views * parts, scene.threads, [&](int i) { fill_part<C>(ws, scene, i / parts, i % parts); });
  parallel_for(scene.views * ws.tiles_x * ws.tiles_y, scene.threads, [&](int tile) { draw_tile<C>(ws, scene, tile, out); });
  if (out.weight)
    parallel_even(scene.views * parts, scene.threads, [&](int i) { gather_part(ws, scene, i / parts, i % parts, out); });
}

template <int C>
static void differentiate_tile(Workspace &ws, const Scene &scene, int tile, const Images &images, const ImageGrads &grads) {
  auto &planes = thread_scratch<BackwardPlanes<C>>();
  if (grads.distortion)
    composite_backward<C, true, true>(ws, scene, tile, planes, images, grads);
  else if (grads.depth || grads.median || grads.normal)
    composite_backward<C, true, false>(ws, scene, tile, planes, images, grads);
  else
    composite_backward<C, false, false>(ws, scene, tile, planes, images, grads);
}

template <int C>
static void backward(Workspace &ws, const Scene &scene, const Images &images, const ImageGrads &grads, const SceneGrads &out) {
  ws.grads.resize((size_t)ws.slot_begin.data()[(size_t)scene.views * scene.surfels] * SLOT<C>);
  parallel_for(scene.views * ws.tiles_x * ws.tiles_y, scene.threads,
               [&](int tile) { differentiate_tile<C>(ws, scene, tile, images, grads); });
  const bool cameras = out.cam_from_world || out.K, geometry = grads.distortion || grads.depth || grads.median || grads.normal;
  if (cameras) ws.camera_grads.resize((size_t)ws.parts * scene.views * CAMERA_SUMS);
  parallel_even(ws.parts, scene.threads, [&](int part) {
    if (geometry)
      gradients_of_part<C, true>(ws, scene, part, out);
    else
      gradients_of_part<C, false>(ws, scene, part, out);
  });
  if (cameras) add_up_cameras(ws, scene, out);
}

extern "C" {
// Multiply-adds that do not wait for each other, to measure what this machine can do at most. Returns the number of floating
// point operations of one round.
int fourdgen_fma(int64_t rounds) {
  constexpr int CHAINS = 12;
  Float a[CHAINS];
  for (int i = 0; i < CHAINS; i++) a[i] = splat((float)i);
  for (int64_t round = 0; round < rounds; round++) {
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; i++) a[i] = fma(a[i], splat(0.5f), splat(1.f));
  }
  float total = 0.f;
  for (Float &v : a) total += sum(v);
  return total < 0.f ? 0 : CHAINS * LANES * 2;  // never 0: the sum is used, so that the loop stays
}
// Null where there is no memory for one.
Workspace *fourdgen_workspace_new() { return new (std::nothrow) Workspace; }
void fourdgen_workspace_free(Workspace *ws) { delete ws; }

// Channels are padded up to the next compiled number. These return an Outcome.
int fourdgen_raster_forward(Workspace *ws, const Scene *scene, const Images *out) {
  const int c = scene->channels;
  return outcome_of([&] {
    if (c <= 3) forward<3>(*ws, *scene, *out);
    else if (c <= 4) forward<4>(*ws, *scene, *out);
    else if (c <= 8) forward<8>(*ws, *scene, *out);
    else if (c <= 16) forward<16>(*ws, *scene, *out);
    else throw TOO_MANY_CHANNELS;
  });
}
int fourdgen_raster_backward(Workspace *ws, const Scene *scene, const Images *images, const ImageGrads *grads,
                             const SceneGrads *out) {
  const int c = scene->channels;
  return outcome_of([&] {
    if (c <= 3) backward<3>(*ws, *scene, *images, *grads, *out);
    else if (c <= 4) backward<4>(*ws, *scene, *images, *grads, *out);
    else if (c <= 8) backward<8>(*ws, *scene, *images, *grads, *out);
    else if (c <= 16) backward<16>(*ws, *scene, *images, *grads, *out);
    else throw TOO_MANY_CHANNELS;
  });
}
}
