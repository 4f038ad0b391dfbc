// Pictures as bytes: what a video or a viewer wants of a drawing.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "parallel.h"

extern "C" {
// rgb [3 h w] (multiplied by alpha) and alpha [h w] before a background [3], as bytes [h w 3], rounded to the nearest. Returns an
// Outcome.
int fourdgen_opaque_bytes(const float *rgb, const float *alpha, const float *background, int h, int w, uint8_t *out, int threads) {
  constexpr int ROWS = 16;
  auto convert = [&](int band) {
    static thread_local std::vector<uint8_t> line;
    line.resize(3 * (size_t)w);
    for (int y = band * ROWS; y < std::min(h, (band + 1) * ROWS); y++) {
      const float *a = alpha + (size_t)y * w;
      for (int c = 0; c < 3; c++) {
        const float *from = rgb + ((size_t)c * h + y) * w, behind = background[c];
        uint8_t *to = line.data() + (size_t)c * w;
        for (int x = 0; x < w; x++) {
          const float cover = std::min(std::max(a[x], 0.f), 1.f);
          const float mixed = std::min(std::max(from[x], 0.f), cover) + behind * (1.f - cover);
          to[x] = (uint8_t)(int)__builtin_rintf(255.f * std::min(mixed, 1.f));
        }
      }
      uint8_t *to = out + (size_t)y * w * 3;
      const uint8_t *r = line.data(), *g = r + w, *b = g + w;
      for (int x = 0; x < w; x++) to[3 * x] = r[x], to[3 * x + 1] = g[x], to[3 * x + 2] = b[x];
    }
  };
  return outcome_of([&] { parallel_for((h + ROWS - 1) / ROWS, threads, convert); });
}
}
