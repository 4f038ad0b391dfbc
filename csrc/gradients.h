// From the sums of a surfel's pixels to gradients of its parameters and of the cameras.
#pragma once
#include <algorithm>
#include <cstring>

#include "projection.h"
#include "raster.h"

constexpr int CAMERA_SUMS = 16;

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
  const Record<C> *records = ws.records_of<C>(view, scene.surfels) + first;
  // the sums of each surfel over its tiles as rows, then transposed: moments[q] holds the sums q of LANES surfels
  constexpr int GROUPS = (MOMENTS<C, GEOMETRY> + LANES - 1) / LANES;
  const Float zero = splat(0.f), one = splat(1.f), two = splat(2.f);
  Float moments[GROUPS * LANES];
  alignas(64) float inverse_c[LANES] = {};
  const size_t all = scene.views * n;
  for (int j = 0; j < LANES; j++) {
    const size_t later = base + j + 24;  // its sums lie all over memory: they are asked for ahead
    if (later < all)
      for (int slot = ws.slot_begin.data()[later], end = ws.slot_begin.data()[later + 1]; slot < end; slot++) {
        const float *next = ws.grads.data() + (size_t)ws.member_of.data()[slot] * SLOT<C>;
        for (int k = 0; k < GROUPS * LANES; k += 16) __builtin_prefetch(next + k);
      }
    Float total[GROUPS];
    for (Float &t : total) t = zero;
    if (j < count) {
      inverse_c[j] = records[j].inverse_c;
      for (int slot = begin[j]; slot < begin[j + 1]; slot++) {
        const float *sums = ws.grads.data() + (size_t)ws.member_of.data()[slot] * SLOT<C>;
        for (int g = 0; g < GROUPS; g++) total[g] = total[g] + load(sums + g * LANES);
      }
    }
    for (int g = 0; g < GROUPS; g++) moments[g * LANES + j] = total[g];
  }
  for (int g = 0; g < GROUPS; g++) transpose(moments + g * LANES);
  auto moments3 = [&](int q) { return Vec3{moments[q], moments[q + 1], moments[q + 2]}; };
  const size_t shift_means = scene.means_per_view ? view * n * 3 : 0, shift_quats = scene.quats_per_view ? view * n * 4 : 0;
  const size_t shift_colors = scene.colors_per_view ? view * n * scene.channels : 0;
  alignas(64) float t[C][LANES];
  if (out.opacities) {
    store(t[0], moments[SUM_OPACITY]);
    for (int j = 0; j < count; j++) out.opacities[first + j] += t[0][j];
  }
  if (out.colors) {
    for (int c = 0; c < C; c++) store(t[c], moments[SUM_COLOR + c]);
    float *to = out.colors + shift_colors + (size_t)first * scene.channels;
    for (int j = 0; j < count; j++)
      for (int c = 0; c < scene.channels; c++) *to++ += t[c][j];
  }
  const Float to_mx = two * moments[SUM_X], to_my = two * moments[SUM_Y];
  if (out.screen) {
    // how the loss changes when the surfel's picture is shifted by a pixel
    alignas(64) float a[3][LANES] = {}, b[3][LANES] = {};
    for (int j = 0; j < count; j++) {
      const Record<C> &r = records[j];
      if (r.inverse_c == 0.f) continue;
      a[0][j] = r.a0, a[1][j] = r.a1, a[2][j] = r.a2;
      b[0][j] = r.b0, b[1][j] = r.b1, b[2][j] = r.b2;
    }
    const Vec3 c = moments3(SUM_C);
    const Float sx = to_mx - dot({load(a[0]), load(a[1]), load(a[2])}, c);
    const Float sy = to_my - dot({load(b[0]), load(b[1]), load(b[2])}, c);
    store(t[0], sqrt(sx * sx + sy * sy));
    for (int j = 0; j < count; j++) out.screen[first + j] += t[0][j];
  }
  if (!out.means && !out.quats && !out.scales && !cameras) return;

  const Camera camera = load_camera(scene.cam_from_world + view * 16, scene.K + view * 9);
  const Projection p = project(camera, scene.means + shift_means, scene.quats + shift_quats, scene.scales, first, count);
  const Homography h = homography(p);
  const Float k = load(inverse_c), fx = splat(camera.fx), fy = splat(camera.fy);
  const Vec3 to_a = moments3(SUM_A) * k, to_b = moments3(SUM_B) * k, to_c = moments3(SUM_C) * k;
  const Vec3 to_hx = cross(to_b, h.w) + cross(h.y, to_c), to_hy = cross(h.w, to_a) + cross(to_c, h.x);
  const Vec3 to_hw = cross(to_a, h.y) + cross(h.x, to_b);
  // without gradients of the geometry's pictures there are no such sums
  auto of_geometry = [&](int q) { return GEOMETRY ? moments[GEOMETRY ? q : 0] : zero; };
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
            fy * p.sy * to_ey_u + of_geometry(SUM_ZU<C>) * p.sloped;
  to_tv.z = to_tv.z + (to_mx * p.ex_v + to_my * p.ey_v) * inverse_d + two * p.tv.z * to_d - fx * p.sx * to_ex_v -
            fy * p.sy * to_ey_v + of_geometry(SUM_ZV<C>) * p.sloped;
  to_tu.x = to_tu.x + fx * to_ex_u, to_tv.x = to_tv.x + fx * to_ex_v;
  to_tu.y = to_tu.y + fy * to_ey_u, to_tv.y = to_tv.y + fy * to_ey_v;
  const Float to_sx = fx * (to_mx - p.tu.z * to_ex_u - p.tv.z * to_ex_v);
  const Float to_sy = fy * (to_my - p.tu.z * to_ey_u - p.tv.z * to_ey_v);
  to_center.x = to_center.x + to_sx * inverse_z;
  to_center.y = to_center.y + to_sy * inverse_z;
  to_center.z = to_center.z - two * p.center.z * to_d - (to_sx * p.sx + to_sy * p.sy) * inverse_z + of_geometry(SUM_Z<C>);
  // to the world
  const Vec3 to_axis_u = rotate_back(camera, to_tu), to_axis_v = rotate_back(camera, to_tv);
  const Vec3 to_normal = {of_geometry(SUM_NORMAL<C>), of_geometry(SUM_NORMAL<C> + 1), of_geometry(SUM_NORMAL<C> + 2)};
  const Vec3 to_mean = rotate_back(camera, to_center), r2 = to_normal * p.facing;
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

// Gradients of a part's surfels, written, and of the cameras, in this part's share.
template <int C, bool GEOMETRY>
static void gradients_of_part(const Workspace &ws, const Scene &scene, int part, const SceneGrads &out) {
  const size_t n = scene.surfels, first = (size_t)part * ws.part, end = std::min(n, first + ws.part);
  auto clear = [&](float *p, int width, bool per_view) {
    if (!p) return;
    for (size_t view = 0; view < (per_view ? (size_t)scene.views : 1); view++)
      std::fill_n(p + (view * n + first) * width, (end - first) * width, 0.f);
  };
  clear(out.means, 3, scene.means_per_view), clear(out.quats, 4, scene.quats_per_view), clear(out.scales, 2, false);
  clear(out.opacities, 1, false), clear(out.colors, scene.channels, scene.colors_per_view);
  static thread_local Buffer<CameraSums> scratch;
  CameraSums *cameras = nullptr;
  if (out.cam_from_world || out.K) {
    cameras = scratch.resize(scene.views);
    std::memset(static_cast<void *>(cameras), 0, sizeof(CameraSums) * scene.views);
  }
  for (size_t i = first; i < end; i += LANES)
    for (int view = 0; view < scene.views; view++)
      parameter_gradients<C, GEOMETRY>(ws, scene, view, (int)i, (int)std::min<size_t>(LANES, end - i), out, cameras);
  if (!cameras) return;
  for (int view = 0; view < scene.views; view++) {
    float *to = ws.camera_grads.data() + ((size_t)part * scene.views + view) * CAMERA_SUMS;
    const CameraSums &s = cameras[view];
    for (int q = 0; q < 9; q++) to[q] = sum(s.rotation[q]);
    for (int q = 0; q < 3; q++) to[9 + q] = sum(s.translation[q]);
    for (int q = 0; q < 4; q++) to[12 + q] = sum(s.intrinsics[q]);
  }
}

static inline void add_up_cameras(const Workspace &ws, const Scene &scene, const SceneGrads &out) {
  for (int view = 0; view < scene.views; view++) {
    double total[CAMERA_SUMS] = {};
    for (int part = 0; part < ws.parts; part++)
      for (int q = 0; q < CAMERA_SUMS; q++)
        total[q] += ws.camera_grads.data()[((size_t)part * scene.views + view) * CAMERA_SUMS + q];
    if (out.cam_from_world) {
      float *pose = out.cam_from_world + view * 16;
      std::fill_n(pose, 16, 0.f);
      for (int i = 0; i < 3; i++) {
        for (int j = 0; j < 3; j++) pose[i * 4 + j] = (float)total[i * 3 + j];
        pose[i * 4 + 3] = (float)total[9 + i];
      }
    }
    if (out.K) {
      float *K = out.K + view * 9;
      std::fill_n(K, 9, 0.f);
      K[0] = (float)total[12], K[4] = (float)total[13], K[2] = (float)total[14], K[5] = (float)total[15];
    }
  }
}
