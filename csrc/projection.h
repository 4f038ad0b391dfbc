// Surfels in camera space: what both directions of the rasterizer share.
#pragma once
#include "raster.h"
#include "simd.h"

struct Camera {
  float rotation[9], translation[3], fx, fy, cx, cy;
};

static inline Camera load_camera(const float *cam_from_world, const float *K) {
  Camera c;
  for (int i = 0; i < 3; i++) {
    for (int j = 0; j < 3; j++) c.rotation[i * 3 + j] = cam_from_world[i * 4 + j];
    c.translation[i] = cam_from_world[i * 4 + 3];
  }
  c.fx = K[0], c.fy = K[4], c.cx = K[2], c.cy = K[5];
  return c;
}

static inline Vec3 rotate(const Camera &c, Vec3 v) {
  const float *r = c.rotation;
  return {splat(r[0]) * v.x + splat(r[1]) * v.y + splat(r[2]) * v.z,
          splat(r[3]) * v.x + splat(r[4]) * v.y + splat(r[5]) * v.z,
          splat(r[6]) * v.x + splat(r[7]) * v.y + splat(r[8]) * v.z};
}
static inline Vec3 rotate_back(const Camera &c, Vec3 v) {
  const float *r = c.rotation;
  return {splat(r[0]) * v.x + splat(r[3]) * v.y + splat(r[6]) * v.z,
          splat(r[1]) * v.x + splat(r[4]) * v.y + splat(r[7]) * v.z,
          splat(r[2]) * v.x + splat(r[5]) * v.y + splat(r[8]) * v.z};
}

// LANES surfels seen by one camera. A point (u, v) of the surfel lies at center + u tu + v tv in camera space.
struct Projection {
  Vec3 mean;                           // world
  Float scale_u, scale_v;
  Float qw, qx, qy, qz, inverse_norm;  // unit quaternion, 1 / |input|
  Vec3 axis_u, axis_v, normal;         // world, unit
  Float facing;                        // +1 or -1: turns the normal towards the camera
  Float sloped;                        // 1, or 0 for a surfel seen edge-on, whose depth is constant
  Vec3 center, tu, tv;                 // camera space
  Float sx, sy;                        // center.xy / center.z
  Float ex_u, ex_v, ey_u, ey_v;        // pixels per unit of u and v, times depth
  Float d, offset_x, offset_y;         // mean2d - projected centre, in pixels: the box of the 1-sigma ellipse is centred on mean2d
};

static inline Projection project(const Camera &c, const float *means, const float *quats, const float *scales, int first,
                                 int count) {
  Projection p;
  Float m[3], q[4], s[2];
  load_rows<3>(means, first, count, m);
  load_rows<4>(quats, first, count, q);
  load_rows<2>(scales, first, count, s);
  const Float one = splat(1.f), two = splat(2.f);
  p.mean = {m[0], m[1], m[2]};
  p.scale_u = s[0], p.scale_v = s[1];
  p.inverse_norm = one / sqrt(q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3]);
  const Float w = q[0] * p.inverse_norm, x = q[1] * p.inverse_norm, y = q[2] * p.inverse_norm, z = q[3] * p.inverse_norm;
  p.qw = w, p.qx = x, p.qy = y, p.qz = z;
  p.axis_u = {one - two * (y * y + z * z), two * (x * y + w * z), two * (x * z - w * y)};
  p.axis_v = {two * (x * y - w * z), one - two * (x * x + z * z), two * (y * z + w * x)};
  p.normal = {two * (x * z + w * y), two * (y * z - w * x), one - two * (x * x + y * y)};
  p.center = rotate(c, p.mean) + Vec3{splat(c.translation[0]), splat(c.translation[1]), splat(c.translation[2])};
  p.tu = rotate(c, p.axis_u) * p.scale_u;
  p.tv = rotate(c, p.axis_v) * p.scale_v;
  const Float toward = dot(rotate(c, p.normal), p.center);
  p.facing = select(gt(splat(0.f), toward), one, splat(-1.f));
  p.sloped = keep(gt(toward * toward, splat(EDGE_ON * EDGE_ON) * dot(p.center, p.center)), one);
  const Float inverse_z = one / p.center.z, fx = splat(c.fx), fy = splat(c.fy);
  p.sx = p.center.x * inverse_z;
  p.sy = p.center.y * inverse_z;
  p.ex_u = fx * (p.tu.x - p.sx * p.tu.z), p.ex_v = fx * (p.tv.x - p.sx * p.tv.z);
  p.ey_u = fy * (p.tu.y - p.sy * p.tu.z), p.ey_v = fy * (p.tv.y - p.sy * p.tv.z);
  p.d = p.tu.z * p.tu.z + p.tv.z * p.tv.z - p.center.z * p.center.z;
  const Float inverse_d = one / p.d;
  p.offset_x = (p.ex_u * p.tu.z + p.ex_v * p.tv.z) * inverse_d;
  p.offset_y = (p.ey_u * p.tu.z + p.ey_v * p.tv.z) * inverse_d;
  return p;
}

// Rows of the homography (u, v, 1) -> (x w, y w, w) with the pixel origin moved to mean2d, which keeps float32 exact enough.
struct Homography {
  Vec3 x, y, w;
};
static inline Homography homography(const Projection &p) {
  Homography h;
  h.w = {p.tu.z, p.tv.z, p.center.z};
  h.x = {p.ex_u - p.offset_x * h.w.x, p.ex_v - p.offset_x * h.w.y, splat(0.f) - p.offset_x * h.w.z};
  h.y = {p.ey_u - p.offset_y * h.w.x, p.ey_v - p.offset_y * h.w.y, splat(0.f) - p.offset_y * h.w.z};
  return h;
}
