// The rasterizer's C interface (mirrored by ctypes in fourdgen/native.py) and what its stages share.
#pragma once
#include <cstdint>
#include "parallel.h"
#include "simd.h"

constexpr float ALPHA_MAX = 0.999f, ALPHA_MIN = 1.f / 255.f, STOP = 1e-4f, NEAR = 0.01f;
constexpr float EDGE_ON = 0.05f;  // |cosine| between normal and ray below which a surfel has one depth, that of its centre

extern "C" {
// All arrays are float32, row-major and contiguous. A `*_per_view` of 0 says that the views share one array.
struct Scene {
  int32_t views, surfels, channels, width, height, threads;
  int32_t means_per_view, quats_per_view, colors_per_view;
  const float *means, *quats, *scales, *opacities, *colors;  // [n 3] [n 4] [n 2] [n] [n c], first with views where per view
  const float *cam_from_world, *K, *background;              // [v 4 4] [v 3 3] [v c] or null
};
struct Images {                                     // planar
  float *rgb, *alpha, *depth, *median, *normal;     // [v c h w] [v h w] [v h w] [v h w] [v 3 h w]
  int32_t *median_id;                               // [v h w], -1 where there is none
  float *distortion, *weight, *pixels;              // [v h w], [v n], [v n], or null
};
struct ImageGrads {  // as Images; each may be null
  const float *rgb, *alpha, *depth, *median, *normal, *distortion;
};
struct SceneGrads {  // as Scene, overwritten; each may be null. screen [n] is added to: see native.raster
  float *means, *quats, *scales, *opacities, *colors, *cam_from_world, *K, *screen;
};
}

// A tile is a cache block: each surfel visits only its own box in it, so that large tiles cost little and spare duplicates.
constexpr int TILE = 64;                               // pixels at most
constexpr int BLOCK_H = 2, BLOCK_W = LANES / BLOCK_H;  // pixels of one vector
constexpr int PITCH = TILE + BLOCK_W;                  // a block may begin at any x, so that rows end in padding
constexpr int ROW_PAIR = BLOCK_H * PITCH;
constexpr int PLANE = PITCH * TILE + LANES;

// Side of the tiles of a picture that is `pixels` wide or high: even, and two tiles at least wherever that leaves them 20
// pixels, so that small pictures occupy more than one core (three cost a core 6 % more at 96-128 pixels, and gave two cores
// nothing). It must not depend on the number of threads: the order of sums follows it.
static inline int tile_side(int pixels) {
  const int fewest = (pixels + TILE - 1) / TILE, tiles = fewest > 1 ? fewest : pixels >= 40 ? 2 : 1;
  const int side = (pixels + tiles - 1) / tiles;
  return (side + BLOCK_H - 1) / BLOCK_H * BLOCK_H;
}

// What a tile needs to know of a surfel in one view. With (dx, dy) = pixel - (mx, my),
// (u, v) = (c0 + a0 dx + b0 dy, c1 + a1 dx + b1 dy) / (1 + a2 dx + b2 dy): the ray's intersection with the surfel's plane.
// The first 16 numbers are written as whole vectors, in this order.
template <int C> struct alignas(64) Record {
  float mx, my, a0, a1, a2, b0, b1, b2, c0, c1;
  float opacity, reach;  // reach: the largest u^2 + v^2 with alpha >= ALPHA_MIN
  float z, zu, zv;       // depth of the intersection = z + u zu + v zv
  float inverse_c;       // what a, b, c were multiplied by; 0 for a culled surfel
  int16_t x0, x1, y0, y1;                      // inclusive box of pixels, empty (x0 > x1) for a culled surfel
  int16_t column0, column1, row0, row1;        // inclusive box of tiles
  float normal[3];         // world, turned to the camera
  float color[C];
};

// Order of the sums that the backward pass gathers per (surfel, tile). The last six are there when pictures of the
// geometry have gradients.
constexpr int SUM_C = 0, SUM_B = 3, SUM_A = 6, SUM_X = 9, SUM_Y = 10, SUM_OPACITY = 11, SUM_COLOR = 12;
template <int C> constexpr int SUM_Z = SUM_COLOR + C;
template <int C> constexpr int SUM_ZU = SUM_Z<C> + 1;
template <int C> constexpr int SUM_ZV = SUM_Z<C> + 2;
template <int C> constexpr int SUM_NORMAL = SUM_Z<C> + 3;
template <int C, bool GEOMETRY> constexpr int MOMENTS = SUM_Z<C> + (GEOMETRY ? 6 : 0);
template <int C> constexpr int SLOT = (MOMENTS<C, true> + 15) / 16 * 16;  // floats: whole cache lines

// State of one forward call, kept for its backward call. A part is a range of surfels that one thread takes at a time; a slot
// is one (surfel, tile), numbered by surfel, and a member is the same, numbered by tile.
struct Workspace {
  int tile_w, tile_h, tiles_x, tiles_y, part, parts;
  Buffer<char> records;          // Record<C> [v n]
  Buffer<int16_t> tile_of;       // [w + h] column of tiles by x, row of tiles by y
  Buffer<int32_t> slot_begin;    // [v n + 1] the slots of a surfel, one per tile, row by row
  Buffer<int32_t> part_begin;    // [v parts tiles] first member of a part in a tile
  Buffer<int64_t> part_slots;    // [v parts] first slot of a part
  Buffer<int32_t> tile_begin;    // [v tiles + 1]
  Buffer<uint64_t> entries;      // [members] bits of the depth and surfel, by part
  Buffer<int32_t> members;       // [members] surfels, near to far within a tile
  Buffer<int32_t> member_of;     // [slots] where a slot's sums lie
  Buffer<float> grads, gathered, camera_grads;
  template <int C> Record<C> *records_of(int view, int surfels) const {
    return reinterpret_cast<Record<C> *>(records.data()) + (size_t)view * surfels;
  }
};
