// Gaussian surfels (2D Gaussian splatting, Huang et al. 2024) on the CPU: projection, sorting, tiles, and the way back.
#include "raster.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "projection.h"
#include "tiles.h"

constexpr int CHUNK = 512;  // surfels of one work item; fixed, so that sums do not depend on the number of threads

// Boxes of visible surfels in pixels: where alpha >= ALPHA_MIN on the plane, united with the low-pass disc.
template <int C> static void project_block(const Scene &scene, Record<C> *records, int view, int first, int count) {
  const size_t n = scene.surfels;
  const Camera camera = load_camera(scene.cam_from_world + view * 16, scene.K + view * 9);
  const float *means = scene.means + (scene.means_per_view ? view * n * 3 : 0);
  const float *quats = scene.quats + (scene.quats_per_view ? view * n * 4 : 0);
  const float *colors = scene.colors + (scene.colors_per_view ? view * n * scene.channels : 0);
  const Projection p = project(camera, means, quats, scene.scales, first, count);
  const Homography h = homography(p);
  const Vec3 a = cross(h.y, h.w), b = cross(h.w, h.x), c = cross(h.x, h.y);
  const Float k = splat(1.f) / c.z;
  alignas(64) float opacity[LANES], reach[LANES];
  for (int j = 0; j < LANES; j++) {
    opacity[j] = scene.opacities[first + (j < count ? j : 0)];
    reach[j] = opacity[j] > ALPHA_MIN ? 2.f * std::log(opacity[j] / ALPHA_MIN) : -1.f;
  }
  const Float r2 = max(load(reach), splat(0.f));
  const Float zz = p.tu.z * p.tu.z + p.tv.z * p.tv.z;
  const Float crosses = r2 * zz - p.center.z * p.center.z, inverse = splat(1.f) / crosses;  // < 0: in front of the camera
  const Float ox = r2 * (p.ex_u * p.tu.z + p.ex_v * p.tv.z) * inverse, oy = r2 * (p.ey_u * p.tu.z + p.ey_v * p.tv.z) * inverse;
  const Float hx = sqrt(max(ox * ox - r2 * (p.ex_u * p.ex_u + p.ex_v * p.ex_v) * inverse, splat(0.f)));
  const Float hy = sqrt(max(oy * oy - r2 * (p.ey_u * p.ey_u + p.ey_v * p.ey_v) * inverse, splat(0.f)));
  const Float x = splat(camera.fx) * p.sx + splat(camera.cx), y = splat(camera.fy) * p.sy + splat(camera.cy);
  const Float mx = x + p.offset_x, my = y + p.offset_y, disc = sqrt(r2 * splat(0.5f));
  const Float values[21] = {mx, my, a.x * k, a.y * k, a.z * k, b.x * k, b.y * k, b.z * k, c.x * k, c.y * k, k,
                            p.center.z, p.tu.z * p.sloped, p.tv.z * p.sloped, p.normal.x * p.facing, p.normal.y * p.facing, p.normal.z * p.facing,
                            min(x + ox - hx, mx - disc), max(x + ox + hx, mx + disc), min(y + oy - hy, my - disc),
                            max(y + oy + hy, my + disc)};
  alignas(64) float o[21][LANES], in_front[LANES], finite[LANES];
  Float check_all = splat(0.f);
  for (int q = 0; q < 21; q++) {
    store(o[q], values[q]);
    check_all = fma(values[q], splat(0.f), check_all);
  }
  store(in_front, crosses);
  store(finite, check_all);
  for (int j = 0; j < count; j++) {
    Record<C> &r = records[first + j];
    const float *color = colors + (size_t)(first + j) * scene.channels;
    float check = finite[j] + 0.f * opacity[j];  // NaN when anything is not finite
    for (int q = 0; q < C; q++) {
      r.color[q] = q < scene.channels ? color[q] : 0.f;
      check += 0.f * r.color[q];
    }
    r.mx = o[0][j], r.my = o[1][j], r.a0 = o[2][j], r.a1 = o[3][j], r.a2 = o[4][j], r.b0 = o[5][j], r.b1 = o[6][j];
    r.b2 = o[7][j], r.c0 = o[8][j], r.c1 = o[9][j], r.inverse_c = o[10][j], r.opacity = opacity[j], r.reach = reach[j];
    r.z = o[11][j], r.zu = o[12][j], r.zv = o[13][j];
    for (int q = 0; q < 3; q++) r.normal[q] = o[14 + q][j];
    bool visible = check == 0.f && r.z > NEAR && in_front[j] < 0.f && reach[j] > 0.f;
    if (visible) {  // pixel centres within the box; clamped before the conversion, where huge values would overflow
      auto pixel = [](float v) { return (int)std::min(std::max(v, -30000.f), 30000.f); };
      const int x0 = std::max(pixel(std::ceil(o[17][j] - 0.5f)), 0), x1 = std::min(pixel(std::floor(o[18][j] - 0.5f)), scene.width - 1);
      const int y0 = std::max(pixel(std::ceil(o[19][j] - 0.5f)), 0), y1 = std::min(pixel(std::floor(o[20][j] - 0.5f)), scene.height - 1);
      r.x0 = x0, r.x1 = x1, r.y0 = y0, r.y1 = y1;
      visible = x0 <= x1 && y0 <= y1;
    }
    if (!visible) r.x0 = 1, r.x1 = 0, r.y0 = 1, r.y1 = 0, r.inverse_c = 0.f;
  }
}

// Stable radix sort by the bits of positive floats.
static void sort_by_depth(uint32_t *keys, int32_t *values, uint32_t *keys_out, int32_t *values_out, int count) {
  std::vector<uint32_t> histogram(3 * 2048, 0);
  uint32_t *h[3] = {histogram.data(), histogram.data() + 2048, histogram.data() + 4096};
  for (int i = 0; i < count; i++) h[0][keys[i] & 2047]++, h[1][(keys[i] >> 11) & 2047]++, h[2][keys[i] >> 22]++;
  for (int pass = 0; pass < 3; pass++) {
    uint32_t total = 0;
    for (int i = 0; i < 2048; i++) std::swap(total, h[pass][i]), total += h[pass][i];
    for (int i = 0; i < count; i++) {
      const uint32_t to = h[pass][(keys[i] >> (11 * pass)) & 2047]++;
      keys_out[to] = keys[i], values_out[to] = values[i];
    }
    std::swap(keys, keys_out), std::swap(values, values_out);
  }
}

template <class Record> static inline int tiles_of(const Record &r) {
  return r.x0 > r.x1 ? 0 : (r.x1 / TILE - r.x0 / TILE + 1) * (r.y1 / TILE - r.y0 / TILE + 1);
}

// Depth order and tile lists. Sorting once and then counting into tiles keeps the order without 64-bit keys.
template <int C> static void bin(Workspace &ws, const Scene &scene) {
  const size_t n = scene.surfels;
  const int tiles = ws.tiles_x * ws.tiles_y;
  const Record<C> *records = reinterpret_cast<const Record<C> *>(ws.records.data());
  uint32_t *keys = ws.keys.resize(scene.views * n), *keys_sorted = ws.keys_sorted.resize(scene.views * n);
  int32_t *order = ws.order.resize(scene.views * n), *order_sorted = ws.order_sorted.resize(scene.views * n);
  int32_t *slot_begin = ws.slot_begin.resize(scene.views * n + 1), *tile_begin = ws.tile_begin.resize((size_t)scene.views * tiles + 1);
  std::vector<int> visible(scene.views);
  parallel_for(scene.views, scene.threads, [&](int v) {
    const Record<C> *r = records + v * n;
    uint32_t *key = keys + v * n;
    int32_t *ids = order + v * n, *counts = tile_begin + (size_t)v * tiles;
    std::fill_n(counts, tiles, 0);
    int count = 0;
    for (size_t i = 0; i < n; i++) {
      slot_begin[v * n + i] = tiles_of(r[i]);
      if (r[i].x0 > r[i].x1) continue;
      std::memcpy(key + count, &r[i].z, 4);
      ids[count++] = (int32_t)i;
      for (int y = r[i].y0 / TILE; y <= r[i].y1 / TILE; y++)
        for (int x = r[i].x0 / TILE; x <= r[i].x1 / TILE; x++) counts[y * ws.tiles_x + x]++;
    }
    visible[v] = count;
    sort_by_depth(key, ids, keys_sorted + v * n, order_sorted + v * n, count);  // three passes end in the second pair
  });
  auto prefix_sum = [](int32_t *p, size_t count) {
    int32_t total = 0;
    for (size_t i = 0; i < count; i++) std::swap(total, p[i]), total += p[i];
    p[count] = total;
    return total;
  };
  const int total = prefix_sum(slot_begin, scene.views * n);
  prefix_sum(tile_begin, (size_t)scene.views * tiles);
  int32_t *members = ws.members.resize(total), *slots = ws.slots.resize(total);
  parallel_for(scene.views, scene.threads, [&](int v) {
    const Record<C> *records_v = records + v * n;
    const int32_t *ids = order_sorted + v * n;
    std::vector<int32_t> next(tile_begin + (size_t)v * tiles, tile_begin + (size_t)(v + 1) * tiles);
    for (int q = 0; q < visible[v]; q++) {
      const Record<C> &r = records_v[ids[q]];
      if (q + 8 < visible[v]) __builtin_prefetch(&records_v[ids[q + 8]].x0);
      int slot = slot_begin[v * n + ids[q]];
      for (int y = r.y0 / TILE; y <= r.y1 / TILE; y++)
        for (int x = r.x0 / TILE; x <= r.x1 / TILE; x++) {
          const int at = next[y * ws.tiles_x + x]++;
          members[at] = ids[q], slots[at] = slot++;
        }
    }
  });
}

template <class T> static T &thread_scratch() {
  static thread_local std::unique_ptr<T> scratch(new T);
  return *scratch;
}

template <int C> static void forward(Workspace &ws, const Scene &scene, const Images &out) {
  const int n = scene.surfels, chunks = (n + CHUNK - 1) / CHUNK;
  ws.tiles_x = (scene.width + TILE - 1) / TILE, ws.tiles_y = (scene.height + TILE - 1) / TILE;
  Record<C> *records = reinterpret_cast<Record<C> *>(ws.records.resize((size_t)scene.views * n * sizeof(Record<C>)));
  parallel_for(scene.views * chunks, scene.threads, [&](int item) {
    const int view = item / chunks, end = std::min(n, (item % chunks + 1) * CHUNK);
    for (int i = item % chunks * CHUNK; i < end; i += LANES)
      project_block<C>(scene, records + (size_t)view * n, view, i, std::min(LANES, end - i));
  });
  bin<C>(ws, scene);
  const bool extra = out.distortion || out.weight;
  float *gathered = out.weight ? ws.gathered.resize(2 * (size_t)ws.slot_begin.data()[(size_t)scene.views * n]) : nullptr;
  parallel_for(scene.views * ws.tiles_x * ws.tiles_y, scene.threads, [&](int tile) {
    auto &planes = thread_scratch<ForwardPlanes<C>>();
    if (extra)
      composite_forward<C, true>(ws, scene, tile, planes, out, gathered);
    else
      composite_forward<C, false>(ws, scene, tile, planes, out, nullptr);
  });
  if (!out.weight) return;
  const int32_t *begin = ws.slot_begin.data();
  for (size_t i = 0; i < (size_t)scene.views * n; i++) {
    out.weight[i] = out.pixels[i] = 0.f;
    for (int slot = begin[i]; slot < begin[i + 1]; slot++)
      out.weight[i] += gathered[2 * slot], out.pixels[i] += gathered[2 * slot + 1];
  }
}

// Sums of camera gradients, in vectors.
struct CameraSums {
  Float rotation[9], translation[3], intrinsics[4];
};

// From the sums of LANES surfels in one view to their parameters: the chain rule of project() and homography(), backwards.
template <int C, bool GEOMETRY>
static void parameter_gradients(const Workspace &ws, const Scene &scene, int view, int first, int count, const SceneGrads &out,
                                CameraSums *cameras) {
  const size_t n = scene.surfels, base = view * n + first;
  const int32_t *begin = ws.slot_begin.data() + base;
  if (begin[0] == begin[count]) return;
  constexpr int N = MOMENTS<C, GEOMETRY>;
  alignas(64) float sums[MOMENTS<C, true>][LANES] = {}, inverse_c[LANES] = {}, record_a[3][LANES] = {}, record_b[3][LANES] = {};
  for (int j = 0; j < count; j++) {
    float total[N] = {};
    for (int slot = begin[j]; slot < begin[j + 1]; slot++) {
      const float *g = ws.grads.data() + (size_t)slot * SLOT<C>;
      for (int q = 0; q < N; q++) total[q] += g[q];
    }
    for (int q = 0; q < N; q++) sums[q][j] = total[q];
    const Record<C> &r = reinterpret_cast<const Record<C> *>(ws.records.data())[base + j];
    inverse_c[j] = r.inverse_c;
    if (r.inverse_c == 0.f) continue;
    record_a[0][j] = r.a0, record_a[1][j] = r.a1, record_a[2][j] = r.a2;
    record_b[0][j] = r.b0, record_b[1][j] = r.b1, record_b[2][j] = r.b2;
  }
  auto moment = [&](int q) { return load(sums[q]); };
  auto moments3 = [&](int q) { return Vec3{load(sums[q]), load(sums[q + 1]), load(sums[q + 2])}; };
  const Float zero = splat(0.f), one = splat(1.f), two = splat(2.f);
  const size_t shift_means = scene.means_per_view ? view * n * 3 : 0, shift_quats = scene.quats_per_view ? view * n * 4 : 0;
  const size_t shift_colors = scene.colors_per_view ? view * n * scene.channels : 0;
  for (int j = 0; j < count; j++) {
    if (out.opacities) out.opacities[first + j] += sums[SUM_OPACITY][j];
    if (out.colors)
      for (int c = 0; c < scene.channels; c++)
        out.colors[shift_colors + (size_t)(first + j) * scene.channels + c] += sums[SUM_COLOR + c][j];
  }
  const Float to_mx = two * moment(SUM_X), to_my = two * moment(SUM_Y);
  if (out.screen) {
    // how the loss changes when the surfel's picture is shifted by a pixel
    const Vec3 c = moments3(SUM_C);
    const Float sx = to_mx - dot({load(record_a[0]), load(record_a[1]), load(record_a[2])}, c);
    const Float sy = to_my - dot({load(record_b[0]), load(record_b[1]), load(record_b[2])}, c);
    alignas(64) float length[LANES];
    store(length, sqrt(sx * sx + sy * sy));
    for (int j = 0; j < count; j++) out.screen[first + j] += length[j];
  }
  if (!out.means && !out.quats && !out.scales && !cameras) return;

  const Camera camera = load_camera(scene.cam_from_world + view * 16, scene.K + view * 9);
  const Projection p = project(camera, scene.means + shift_means, scene.quats + shift_quats, scene.scales, first, count);
  const Homography h = homography(p);
  const Float k = load(inverse_c), fx = splat(camera.fx), fy = splat(camera.fy);
  const Vec3 to_a = moments3(SUM_A) * k, to_b = moments3(SUM_B) * k, to_c = moments3(SUM_C) * k;
  const Vec3 to_hx = cross(to_b, h.w) + cross(h.y, to_c), to_hy = cross(h.w, to_a) + cross(to_c, h.x);
  const Vec3 to_hw = cross(to_a, h.y) + cross(h.x, to_b);
  // rows of K (tu tv center); the pixel origin is mean2d, held fixed here since (u, v) does not depend on it
  const Float away_x = zero - (fx * p.sx + p.offset_x), away_y = zero - (fy * p.sy + p.offset_y);
  const Vec3 wx = to_hx * fx, wy = to_hy * fy, wz = to_hw + to_hx * away_x + to_hy * away_y;
  Vec3 to_tu = {wx.x, wy.x, wz.x}, to_tv = {wx.y, wy.y, wz.y}, to_center = {wx.z, wy.z, wz.z};
  // the low-pass disc, through mean2d
  const Float inverse_d = one / p.d, inverse_z = one / p.center.z;
  const Float to_d = zero - (to_mx * p.offset_x + to_my * p.offset_y) * inverse_d;
  const Float to_ex_u = to_mx * p.tu.z * inverse_d, to_ex_v = to_mx * p.tv.z * inverse_d;
  const Float to_ey_u = to_my * p.tu.z * inverse_d, to_ey_v = to_my * p.tv.z * inverse_d;
  to_tu.z = to_tu.z + (to_mx * p.ex_u + to_my * p.ey_u) * inverse_d + two * p.tu.z * to_d - fx * p.sx * to_ex_u -
            fy * p.sy * to_ey_u + moment(SUM_ZU<C>) * p.sloped;
  to_tv.z = to_tv.z + (to_mx * p.ex_v + to_my * p.ey_v) * inverse_d + two * p.tv.z * to_d - fx * p.sx * to_ex_v -
            fy * p.sy * to_ey_v + moment(SUM_ZV<C>) * p.sloped;
  to_tu.x = to_tu.x + fx * to_ex_u, to_tv.x = to_tv.x + fx * to_ex_v;
  to_tu.y = to_tu.y + fy * to_ey_u, to_tv.y = to_tv.y + fy * to_ey_v;
  const Float to_sx = fx * (to_mx - p.tu.z * to_ex_u - p.tv.z * to_ex_v);
  const Float to_sy = fy * (to_my - p.tu.z * to_ey_u - p.tv.z * to_ey_v);
  to_center.x = to_center.x + to_sx * inverse_z;
  to_center.y = to_center.y + to_sy * inverse_z;
  to_center.z = to_center.z - two * p.center.z * to_d - (to_sx * p.sx + to_sy * p.sy) * inverse_z + moment(SUM_Z<C>);
  // to the world
  const Vec3 to_axis_u = rotate_back(camera, to_tu), to_axis_v = rotate_back(camera, to_tv);
  const Vec3 to_mean = rotate_back(camera, to_center), r2 = moments3(SUM_NORMAL<C>) * p.facing;
  const Vec3 r0 = to_axis_u * p.scale_u, r1 = to_axis_v * p.scale_v;
  const Float w = p.qw, x = p.qx, y = p.qy, z = p.qz;
  Float qw = two * (z * (r0.y - r1.x) + y * (r2.x - r0.z) + x * (r1.z - r2.y));
  Float qx = two * (y * (r0.y + r1.x) + z * (r0.z + r2.x) - two * x * (r1.y + r2.z) + w * (r1.z - r2.y));
  Float qy = two * (x * (r0.y + r1.x) + z * (r1.z + r2.y) - two * y * (r0.x + r2.z) + w * (r2.x - r0.z));
  Float qz = two * (x * (r0.z + r2.x) + y * (r1.z + r2.y) - two * z * (r0.x + r1.y) + w * (r0.y - r1.x));
  const Float along = qw * w + qx * x + qy * y + qz * z;
  // lanes of culled surfels may hold anything
  const Mask live = gt(abs(k), zero);
  const Float values[9] = {to_mean.x, to_mean.y, to_mean.z,
                           (qw - along * w) * p.inverse_norm, (qx - along * x) * p.inverse_norm,
                           (qy - along * y) * p.inverse_norm, (qz - along * z) * p.inverse_norm,
                           dot(to_axis_u, p.axis_u), dot(to_axis_v, p.axis_v)};
  alignas(64) float o[9][LANES];
  for (int q = 0; q < 9; q++) store(o[q], keep(live, values[q]));
  for (int j = 0; j < count; j++) {
    const size_t i = first + j;
    if (out.means)
      for (int q = 0; q < 3; q++) out.means[shift_means + i * 3 + q] += o[q][j];
    if (out.quats)
      for (int q = 0; q < 4; q++) out.quats[shift_quats + i * 4 + q] += o[3 + q][j];
    if (out.scales) out.scales[i * 2] += o[7][j], out.scales[i * 2 + 1] += o[8][j];
  }
  if (!cameras) return;
  CameraSums &s = cameras[view];
  const Vec3 world_u = p.axis_u * p.scale_u, world_v = p.axis_v * p.scale_v;
  const Float center[3] = {to_center.x, to_center.y, to_center.z}, u[3] = {to_tu.x, to_tu.y, to_tu.z}, v[3] = {to_tv.x, to_tv.y, to_tv.z};
  const Float point[3] = {p.mean.x, p.mean.y, p.mean.z}, wu[3] = {world_u.x, world_u.y, world_u.z}, wv[3] = {world_v.x, world_v.y, world_v.z};
  for (int i = 0; i < 3; i++) {
    for (int j = 0; j < 3; j++)
      s.rotation[i * 3 + j] = s.rotation[i * 3 + j] + keep(live, center[i] * point[j] + u[i] * wu[j] + v[i] * wv[j]);
    s.translation[i] = s.translation[i] + keep(live, center[i]);
  }
  const Vec3 row_x = {p.tu.x, p.tv.x, p.center.x}, row_y = {p.tu.y, p.tv.y, p.center.y}, row_z = {p.tu.z, p.tv.z, p.center.z};
  const Float focal[4] = {dot(to_hx, row_x) + to_mx * (p.sx + p.offset_x / fx), dot(to_hy, row_y) + to_my * (p.sy + p.offset_y / fy),
                          dot(to_hx, row_z) + to_mx, dot(to_hy, row_z) + to_my};
  for (int q = 0; q < 4; q++) s.intrinsics[q] = s.intrinsics[q] + keep(live, focal[q]);
}

template <int C>
static void backward(Workspace &ws, const Scene &scene, const Images &images, const ImageGrads &grads, const SceneGrads &out) {
  const int n = scene.surfels, chunks = (n + CHUNK - 1) / CHUNK;
  ws.grads.resize((size_t)ws.slot_begin.data()[(size_t)scene.views * n] * SLOT<C>);
  const bool distortion = grads.distortion, geometry = distortion || grads.depth || grads.median || grads.normal;
  parallel_for(scene.views * ws.tiles_x * ws.tiles_y, scene.threads, [&](int tile) {
    auto &planes = thread_scratch<BackwardPlanes<C>>();
    if (distortion)
      composite_backward<C, true, true>(ws, scene, tile, planes, images, grads);
    else if (geometry)
      composite_backward<C, true, false>(ws, scene, tile, planes, images, grads);
    else
      composite_backward<C, false, false>(ws, scene, tile, planes, images, grads);
  });
  const bool cameras = out.cam_from_world || out.K;
  constexpr int SUMS = 16;
  float *partial = cameras ? ws.camera_grads.resize((size_t)chunks * scene.views * SUMS) : nullptr;
  parallel_for(chunks, scene.threads, [&](int chunk) {
    Buffer<CameraSums> scratch;
    CameraSums *camera_sums = cameras ? scratch.resize(scene.views) : nullptr;
    if (cameras) std::memset(static_cast<void *>(camera_sums), 0, sizeof(CameraSums) * scene.views);
    const int end = std::min(n, (chunk + 1) * CHUNK);
    for (int i = chunk * CHUNK; i < end; i += LANES)
      for (int view = 0; view < scene.views; view++)
        if (geometry)
          parameter_gradients<C, true>(ws, scene, view, i, std::min(LANES, end - i), out, camera_sums);
        else
          parameter_gradients<C, false>(ws, scene, view, i, std::min(LANES, end - i), out, camera_sums);
    if (!cameras) return;
    for (int view = 0; view < scene.views; view++) {
      float *to = partial + ((size_t)chunk * scene.views + view) * SUMS;
      const CameraSums &s = camera_sums[view];
      for (int q = 0; q < 9; q++) to[q] = sum(s.rotation[q]);
      for (int q = 0; q < 3; q++) to[9 + q] = sum(s.translation[q]);
      for (int q = 0; q < 4; q++) to[12 + q] = sum(s.intrinsics[q]);
    }
  });
  if (!cameras) return;
  for (int view = 0; view < scene.views; view++) {
    double total[SUMS] = {};
    for (int chunk = 0; chunk < chunks; chunk++)
      for (int q = 0; q < SUMS; q++) total[q] += partial[((size_t)chunk * scene.views + view) * SUMS + q];
    if (out.cam_from_world)
      for (int i = 0; i < 3; i++) {
        for (int j = 0; j < 3; j++) out.cam_from_world[view * 16 + i * 4 + j] = (float)total[i * 3 + j];
        out.cam_from_world[view * 16 + i * 4 + 3] = (float)total[9 + i];
      }
    if (out.K) {
      float *K = out.K + view * 9;
      K[0] = (float)total[12], K[4] = (float)total[13], K[2] = (float)total[14], K[5] = (float)total[15];
    }
  }
}

extern "C" {
int fourdgen_lanes() { return LANES; }
Workspace *fourdgen_workspace_new() { return new Workspace; }
void fourdgen_workspace_free(Workspace *ws) { delete ws; }

// Channels are padded up to the next compiled number. Returns 0, or 1 when there are too many.
int fourdgen_raster_forward(Workspace *ws, const Scene *scene, const Images *out) {
  const int c = scene->channels;
  if (c <= 3) forward<3>(*ws, *scene, *out);
  else if (c <= 4) forward<4>(*ws, *scene, *out);
  else if (c <= 8) forward<8>(*ws, *scene, *out);
  else if (c <= 16) forward<16>(*ws, *scene, *out);
  else return 1;
  return 0;
}
int fourdgen_raster_backward(Workspace *ws, const Scene *scene, const Images *images, const ImageGrads *grads,
                             const SceneGrads *out) {
  const int c = scene->channels;
  if (c <= 3) backward<3>(*ws, *scene, *images, *grads, *out);
  else if (c <= 4) backward<4>(*ws, *scene, *images, *grads, *out);
  else if (c <= 8) backward<8>(*ws, *scene, *images, *grads, *out);
  else if (c <= 16) backward<16>(*ws, *scene, *images, *grads, *out);
  else return 1;
  return 0;
}
}
