// Plays a 4D asset of Gaussian surfels: WebGL2, no dependencies, no network. Written into the page by html.py.
// World: y down, as in scene.ply; cameras: x right, y down, z forward; pixel centres at +0.5; quaternions here xyzw.
'use strict';
(async () => {
const $ = id => document.getElementById(id);
const meta = JSON.parse($('meta').textContent);
const root = document.documentElement;
const sorry = text => { $('sorry').textContent = text; $('sorry').hidden = false; $('bar').hidden = true; };
$('title').textContent = meta.title;

const canvas = $('canvas');
const gl = canvas.getContext('webgl2', { alpha: false, antialias: false, depth: false });
if (!gl) return sorry('This browser cannot show the asset: it has no WebGL 2. Try a current Chrome, Firefox, Edge or Safari, ' +
  'and switch hardware acceleration on.');
if (!self.DecompressionStream) return sorry('This browser is too old to unpack the asset. Any browser of 2023 or later can.');

// ---- The payload: arrays of numbers, each stored as planes of bytes, lowest byte first, and mapped to lo..hi. ----
const text = atob($('payload').textContent), packed = new Uint8Array(text.length);
for (let i = 0; i < text.length; i++) packed[i] = text.charCodeAt(i);
$('payload').remove();
const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream('gzip'));
const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
const data = {};
let at = 0;
for (const { name, length, planes, lo, hi } of meta.arrays) {
  const values = data[name] = new Float32Array(length), scale = (hi - lo) / (256 ** planes - 1);
  for (let i = 0; i < length; i++) {
    let raw = 0;
    for (let k = planes - 1; k >= 0; k--) raw = raw * 256 + bytes[at + k * length + i];
    values[i] = lo + raw * scale;
  }
  at += length * planes;
}
const { count, bones, degree } = meta;
const moving = bones > 0, VIEWS = ['rgb', 'normal', 'confidence'];

// ---- Sorting, in a worker: surfels by the depth of their centres at a time, farthest first. ----
function sorter() {
  let count, x, ids, weights, depth, keys;
  const order = ({ row, pose }) => {
    let lo = Infinity, hi = -Infinity;
    for (let i = 0; i < count; i++) {
      let px = x[i], py = x[count + i], pz = x[2 * count + i];
      if (pose) {
        let best = 0;
        for (let j = 1; j < 4; j++) if (weights[j * count + i] > weights[best * count + i]) best = j;
        const pivot = 8 * ids[best * count + i], q = [0, 0, 0, 0, 0, 0, 0, 0];
        for (let j = 0; j < 4; j++) {
          const b = 8 * ids[j * count + i];
          let w = weights[j * count + i];
          if (pose[b] * pose[pivot] + pose[b + 1] * pose[pivot + 1] + pose[b + 2] * pose[pivot + 2] + pose[b + 3] * pose[pivot + 3] < 0) w = -w;
          for (let k = 0; k < 8; k++) q[k] += w * pose[b + k];
        }
        const [a, b, c, w, e, f, g, d] = q, s = 2 / (a * a + b * b + c * c + w * w);
        const ux = b * pz - c * py + w * px, uy = c * px - a * pz + w * py, uz = a * py - b * px + w * pz;
        [px, py, pz] = [
          px + s * (b * uz - c * uy + w * e - d * a + b * g - c * f),
          py + s * (c * ux - a * uz + w * f - d * b + c * e - a * g),
          pz + s * (a * uy - b * ux + w * g - d * c + a * f - b * e)];
      }
      const z = depth[i] = row[0] * px + row[1] * py + row[2] * pz;
      if (z < lo) lo = z;
      if (z > hi) hi = z;
    }
    const scale = 65535 / Math.max(hi - lo, 1e-9), starts = new Uint32Array(65537), out = new Uint32Array(count);
    for (let i = 0; i < count; i++) starts[1 + (keys[i] = (hi - depth[i]) * scale | 0)]++;
    for (let k = 0; k < 65536; k++) starts[k + 1] += starts[k];
    for (let i = 0; i < count; i++) out[starts[keys[i]]++] = i;
    return out;
  };
  return message => {
    if (message.x) {
      ({ count, x, ids, weights } = message);
      depth = new Float32Array(count);
      keys = new Uint16Array(count);
      return null;
    }
    return { id: message.id, order: order(message) };
  };
}
const first = { count, x: data.mean, ids: data.bone, weights: data.weight };
let post;
try {
  const source = `const answer = (${sorter})(); onmessage = e => { const out = answer(e.data); if (out) postMessage(out, [out.order.buffer]); };`;
  const worker = new Worker(URL.createObjectURL(new Blob([source])));
  worker.onmessage = e => sorted(e.data);
  post = message => worker.postMessage(message);
} catch { // Where workers from blobs are forbidden, this thread does the work.
  const answer = sorter();
  post = message => { const out = answer(message); if (out) setTimeout(sorted, 0, out); };
}
post(first);

// ---- Shaders: the renderer's own formulas (2D Gaussian splatting; docs/method.md section 4). ----
const VERTEX = `#version 300 es
precision highp float; precision highp int; precision highp sampler2D;
uniform sampler2D surfels, bones;
uniform mat3 R; uniform vec3 T, eye; uniform vec2 focal, size; uniform int texels, linear, view; uniform bool moving;
layout(location = 0) in uint index;
flat out vec3 H0, H1, H2; flat out vec2 middle; flat out vec4 color;
vec4 read(int k) { int i = int(index) * texels + k; return texelFetch(surfels, ivec2(i & 2047, i >> 11), 0); }
vec3 turn(vec4 q, vec3 v) { return v + 2. * cross(q.xyz, cross(q.xyz, v) + q.w * v); }
void main() {
  vec4 p = read(0), q = read(1), s = read(2), spin = vec4(0, 0, 0, 1);
  vec3 mean = p.xyz;
  if (moving) { // dual quaternion blending, signs towards the heaviest bone
    vec4 ids = read(3), w = read(4), dual = vec4(0);
    int best = 0;
    for (int j = 1; j < 4; j++) if (w[j] > w[best]) best = j;
    vec4 pivot = texelFetch(bones, ivec2(0, int(ids[best] + .5)), 0);
    spin = vec4(0);
    for (int j = 0; j < 4; j++) {
      int b = int(ids[j] + .5);
      vec4 real = texelFetch(bones, ivec2(0, b), 0);
      float k = dot(real, pivot) < 0. ? -w[j] : w[j];
      spin += k * real; dual += k * texelFetch(bones, ivec2(1, b), 0);
    }
    float norm = max(length(spin), 1e-9);
    spin /= norm; dual /= norm;
    mean = turn(spin, mean) + 2. * (spin.w * dual.xyz - dual.w * spin.xyz + cross(spin.xyz, dual.xyz));
  }
  vec3 c = R * mean + T;
  vec3 tu = R * turn(spin, turn(q, vec3(s.x, 0, 0))), tv = R * turn(spin, turn(q, vec3(0, s.y, 0)));
  float reach = 2. * log(p.w * 255.);
  vec2 tz = vec2(tu.z, tv.z), slope = c.xy / c.z;
  vec2 mx = focal.x * (vec2(tu.x, tv.x) - slope.x * tz), my = focal.y * (vec2(tu.y, tv.y) - slope.y * tz);
  vec2 along = vec2(dot(mx, tz), dot(my, tz)), square = vec2(dot(mx, mx), dot(my, my)), center = focal * slope + .5 * size;
  vec2 offset = along / (dot(tz, tz) - c.z * c.z);
  float crosses = reach * dot(tz, tz) - c.z * c.z;
  vec2 box = reach * along / crosses, side = sqrt(max(box * box - reach * square / crosses, 0.));
  float disc = sqrt(.5 * max(reach, 0.));
  middle = center + offset;
  vec2 low = min(center + box - side, middle - disc) - .5, high = max(center + box + side, middle + disc) + .5;
  H2 = vec3(tz, c.z); H0 = vec3(mx, 0) - offset.x * H2; H1 = vec3(my, 0) - offset.y * H2;
  bool seen = c.z > .01 && crosses < 0. && reach > 0. && all(greaterThan(high, vec2(0))) && all(lessThan(low, size));
  vec2 pixel = mix(low, high, vec2(gl_VertexID & 1, gl_VertexID >> 1));
  gl_Position = seen ? vec4((2. * pixel / size - 1.) * vec2(1, -1), 0, 1) : vec4(2, 2, 2, 1);
  if (view == 1) {
    vec3 n = R * turn(spin, turn(q, vec3(0, 0, 1)));
    color.rgb = .5 + .5 * vec3(1, -1, -1) * (dot(n, c) < 0. ? n : -n);
  } else {
    vec4 own = read(5);
    color.rgb = view == 2 ? own.www : own.rgb;
    if (linear > 0 && view == 0) { // degree 1, seen along the direction in the canonical frame
      vec3 d = turn(vec4(-spin.xyz, spin.w), normalize(mean - eye));
      color.rgb += -d.y * read(linear).rgb + d.z * read(linear + 1).rgb - d.x * read(linear + 2).rgb;
    }
    color.rgb = max(color.rgb, 0.);
  }
  color.a = p.w;
}`;
const FRAGMENT = `#version 300 es
precision highp float;
uniform vec2 size;
flat in vec3 H0, H1, H2; flat in vec2 middle; flat in vec4 color;
out vec4 result;
void main() {
  vec2 p = vec2(gl_FragCoord.x, size.y - gl_FragCoord.y) - middle;
  vec3 x = cross(p.x * H2 - H0, p.y * H2 - H1); // the ray meets the surfel at (x.xy / x.z) standard deviations
  float plane = dot(x.xy, x.xy), square = x.z * x.z, disc = 2. * dot(p, p);
  float a = min(.999, color.a * exp(-.5 * (plane < disc * square ? plane / square : disc)));
  if (a < 1. / 255.) discard;
  result = vec4(color.rgb * a, a);
}`;
const SCREEN = `#version 300 es
void main() { gl_Position = vec4(vec2(gl_VertexID & 1, gl_VertexID >> 1) * 4. - 1., 0, 1); }`;
const RESOLVE = `#version 300 es
precision highp float; precision highp sampler2D;
uniform sampler2D sum; uniform vec3 background; uniform int view;
out vec4 result;
vec3 viridis(float t) { // a polynomial fitted to the colour map, off by 4 / 255 at most
  vec3 k[7] = vec3[](vec3(.27, .01, .33), vec3(.1, 1.39, 1.38), vec3(-.18, .27, .15), vec3(-5.24, -5.94, -19.54),
    vec3(7.48, 14.42, 57.19), vec3(3.6, -13.94, -65.84), vec3(-5.04, 4.7, 26.46)), sum = vec3(0);
  for (int i = 6; i >= 0; i--) sum = sum * t + k[i];
  return clamp(sum, 0., 1.);
}
void main() {
  vec4 c = texelFetch(sum, ivec2(gl_FragCoord.xy), 0);
  float a = min(c.a, 1.);
  vec3 color = min(c.rgb, a);
  if (view == 1 && a > 0.) color = (.5 + .5 * normalize(2. * c.rgb / c.a - 1.)) * a;
  if (view == 2 && a > 0.) color = viridis(clamp(c.r / c.a, 0., 1.)) * a;
  result = vec4(color + background * (1. - a), 1);
}`;

// ---- What lives on the GPU. Made again when the browser has taken the context away. ----
let gpu;
function build() {
  const program = (...sources) => {
    const made = gl.createProgram();
    [gl.VERTEX_SHADER, gl.FRAGMENT_SHADER].forEach((type, k) => {
      const shader = gl.createShader(type);
      gl.shaderSource(shader, sources[k]);
      gl.compileShader(shader);
      gl.attachShader(made, shader);
    });
    gl.linkProgram(made);
    const uniforms = {};
    for (let k = gl.getProgramParameter(made, gl.ACTIVE_UNIFORMS); k--;) {
      const { name } = gl.getActiveUniform(made, k);
      uniforms[name] = gl.getUniformLocation(made, name);
    }
    return [made, uniforms];
  };
  const texture = (format, width, height, type, values) => {
    const made = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, made);
    gl.texImage2D(gl.TEXTURE_2D, 0, format, width, height, 0, gl.RGBA, type, values);
    for (const name of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, name, gl.NEAREST);
    return made;
  };
  const linear = degree ? 6 : 0, texels = 6 + 3 * degree;
  const height = Math.ceil(count * texels / 2048), table = new Float32Array(2048 * height * 4);
  if (height > gl.getParameter(gl.MAX_TEXTURE_SIZE)) return sorry('The asset has more surfels than this device can hold.');
  const put = (k, values, parts, from = 0) => {
    for (let i = 0; i < count; i++)
      for (let j = 0; j < parts; j++) table[4 * (i * texels + k) + from + j] = values[j * count + i];
  };
  put(0, data.mean, 3); put(0, data.opacity, 1, 3); put(1, data.quat, 3); put(2, data.scale.map(Math.exp), 2);
  for (let i = 0; i < count; i++) { // a quaternion's real part is not stored: it is what makes its length 1
    const at = 4 * (i * texels + 1);
    table[at + 3] = Math.sqrt(Math.max(0, 1 - table[at] ** 2 - table[at + 1] ** 2 - table[at + 2] ** 2));
  }
  if (moving) { put(3, data.bone, 4); put(4, data.weight, 4); }
  put(5, data.color, 3); put(5, data.confidence, 1, 3);
  if (degree) for (let j = 0; j < 3; j++) put(linear + j, data.linear.subarray(3 * j * count), 3);
  const half = gl.getExtension('EXT_color_buffer_float') || gl.getExtension('EXT_color_buffer_half_float');
  gpu = {
    draw: program(VERTEX, FRAGMENT), resolve: program(SCREEN, RESOLVE), texels, linear, texture,
    surfels: texture(gl.RGBA32F, 2048, height, gl.FLOAT, table), bones: texture(gl.RGBA32F, 2, Math.max(bones, 1), gl.FLOAT, null),
    order: gl.createBuffer(), frame: gl.createFramebuffer(), sum: null, size: '',
    format: half ? [gl.RGBA16F, gl.HALF_FLOAT] : [gl.RGBA8, gl.UNSIGNED_BYTE],
  };
  gl.bindBuffer(gl.ARRAY_BUFFER, gpu.order);
  gl.enableVertexAttribArray(0);
  gl.vertexAttribIPointer(0, 1, gl.UNSIGNED_INT, 0, 0);
  gl.vertexAttribDivisor(0, 1);
  gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
}
canvas.addEventListener('webglcontextlost', e => { e.preventDefault(); gpu = null; });
canvas.addEventListener('webglcontextrestored', () => { build(); shown = -1; touch(); });

// ---- The state: what is shown, from where, when. ----
const prefers = what => self.matchMedia && matchMedia(`(prefers-${what})`).matches;
const start = {
  clip: meta.reference, phase: 0, playing: moving && !prefers('reduced-motion: reduce'), speed: 1, view: 'rgb',
  bg: prefers('color-scheme: dark') ? '#14161a' : '#ffffff', spin: false,
  az: meta.camera.az, el: meta.camera.el, dist: meta.camera.dist, fov: meta.camera.fov, target: meta.camera.target,
};
const state = { ...start };
const clipOf = () => meta.clips[state.clip];
const period = clip => (clip.last - clip.first + (clip.back ? 0 : clip.step)) * (clip.back ? 2 : 1);
const seconds = () => { // a motion whose end does not meet its beginning runs back again
  const clip = clipOf(), length = clip.last - clip.first;
  return clip.first + Math.min(clip.back && state.phase > length ? 2 * length - state.phase : state.phase, length);
};
const seek = time => { const clip = clipOf(); state.phase = within(time, clip.first, clip.last) - clip.first; };

const within = (value, low, high) => Math.min(Math.max(value, low), high);
const nearest = meta.camera.dist * .05, farthest = meta.camera.dist * 20, slowest = .0625, fastest = 8;
function fromHash() { // #time=0.5&clip=a&az=30&el=10&dist=3&fov=35&target=0,0,0&view=normal&bg=000000&speed=0.5&freeze&bare
  const given = new URLSearchParams(location.hash.slice(1));
  // What is no number, or no possible one (above `floor`), is as if it were not there; what is beyond the controls' range ends there.
  const number = (name, low, high, floor = -Infinity) => {
    const value = given.get(name) ? +given.get(name) : NaN;
    if (isFinite(value) && value > floor) state[name] = within(value, low, high);
  };
  number('az', -1e6, 1e6); number('el', -89, 89); number('dist', nearest, farthest, 0); number('fov', 5, 120, 0); number('speed', slowest, fastest, 0);
  const target = (given.get('target') || '').split(',').map(Number);
  if (target.length === 3 && target.every(isFinite)) state.target = target.map((v, k) => within(v, start.target[k] - farthest, start.target[k] + farthest));
  const clip = meta.clips.findIndex(c => c.name === given.get('clip'));
  if (clip >= 0) state.clip = clip;
  const time = given.get('time') ? +given.get('time') : NaN;
  if (isFinite(time)) seek(time); // in the clip
  if (VIEWS.includes(given.get('view'))) state.view = given.get('view');
  if (/^[0-9a-f]{6}$/i.test(given.get('bg') || '')) state.bg = '#' + given.get('bg').toLowerCase();
  if (given.has('freeze')) state.playing = false;
  root.classList.toggle('bare', given.has('bare'));
}
function toHash() {
  const round = v => +v.toFixed(4);
  return `#time=${round(seconds())}&clip=${encodeURIComponent(clipOf().name)}&az=${round(state.az)}&el=${round(state.el)}&dist=${round(state.dist)}` +
    `&fov=${round(state.fov)}&target=${state.target.map(round)}&view=${state.view}&bg=${state.bg.slice(1)}&speed=${state.speed}${state.playing ? '' : '&freeze'}`;
}

// ---- Cameras and bones of the present state. ----
function camera(width, height) {
  const a = state.az * Math.PI / 180, e = state.el * Math.PI / 180, [sa, ca, se, ce] = [Math.sin(a), Math.cos(a), Math.sin(e), Math.cos(e)];
  const away = [sa * ce, -se, -ca * ce], rows = [[ca, 0, sa], [sa * se, ce, -ca * se], away.map(v => -v)];
  const eye = away.map((v, k) => state.target[k] + state.dist * v);
  return { rows, eye, T: rows.map(r => -(r[0] * eye[0] + r[1] * eye[1] + r[2] * eye[2])),
    focal: .5 * Math.min(width, height) / Math.tan(state.fov * Math.PI / 360) };
}
const offsets = meta.clips.map((_, k) => meta.clips.slice(0, k).reduce((sum, clip) => sum + clip.samples.length, 0));
const total = meta.clips.reduce((sum, clip) => sum + clip.samples.length, 0);
function pose() { // between the two samples around the time: linear; the shader and the sorter normalise
  if (!moving) return null;
  const times = clipOf().samples, time = seconds(), out = new Float32Array(8 * bones);
  let right = times.findIndex(t => t >= time);
  right = Math.min(Math.max(right < 0 ? times.length : right, 1), times.length - 1);
  const left = Math.max(right - 1, 0), span = Math.max(times[right] - times[left], 1e-9);
  const share = Math.min(Math.max((time - times[left]) / span, 0), 1), from = offsets[state.clip];
  for (let b = 0; b < bones; b++) {
    let norm = 0;
    for (let k = 0; k < 8; k++) {
      const values = k < 4 ? data.real : data.dual, plane = (k % 4) * total;
      const v = out[8 * b + k] = (1 - share) * values[(plane + from + left) * bones + b] + share * values[(plane + from + right) * bones + b];
      if (k < 4) norm += v * v;
    }
    for (let k = 0; k < 8; k++) out[8 * b + k] /= Math.sqrt(norm);
  }
  return out;
}

// ---- Drawing. Nothing is drawn while nothing changes. ----
let id = 0, shown = -1, asked = -1, busy = false, order = null, waiting = false, before = 0;
const touch = () => { id++; delete root.dataset.settled; wake(); };
const wake = () => { if (!waiting) { waiting = true; requestAnimationFrame(tick); } };
function sorted(answer) {
  busy = false;
  order = answer;
  wake();
}
function tick(now) {
  waiting = false;
  const passed = Math.min(now - before, 100) / 1000;
  before = now;
  if (state.playing) { state.phase = (state.phase + passed * state.speed) % Math.max(period(clipOf()), 1e-6); id++; }
  if (state.spin) { state.az += 30 * passed; id++; }
  if (state.playing || state.spin) wake();
  const ratio = Math.min(self.devicePixelRatio || 1, 2);
  const width = Math.max(1, Math.round(canvas.clientWidth * ratio)), height = Math.max(1, Math.round(canvas.clientHeight * ratio));
  if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; id++; }
  if (!gpu) return;
  const cam = camera(width, height), bonesNow = pose();
  if (!busy && asked !== id) {
    busy = true;
    post({ id: asked = id, row: cam.rows[2], pose: bonesNow });
  }
  if (order) draw(width, height, cam, bonesNow);
  const time = seconds();
  if (document.activeElement !== $('time') || state.playing) $('time').value = time;
  $('clock').textContent = time.toFixed(2) + ' s';
  $('icon').setAttribute('d', state.playing ? 'M5 3v10M11 3v10' : 'M4.5 2.5v11l9-5.500z');
}
function draw(width, height, cam, bonesNow) {
  const view = VIEWS.indexOf(state.view);
  if (gpu.size !== width + 'x' + height) {
    gl.deleteTexture(gpu.sum);
    gpu.sum = gpu.texture(gpu.format[0], width, height, gpu.format[1], null);
    gl.bindFramebuffer(gl.FRAMEBUFFER, gpu.frame);
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, gpu.sum, 0);
    gpu.size = width + 'x' + height;
  }
  if (shown !== order.id) {
    gl.bufferData(gl.ARRAY_BUFFER, order.order, gl.DYNAMIC_DRAW);
    shown = order.id;
  }
  gl.viewport(0, 0, width, height);
  gl.bindFramebuffer(gl.FRAMEBUFFER, gpu.frame);
  gl.clearColor(0, 0, 0, 0);
  gl.clear(gl.COLOR_BUFFER_BIT);
  gl.enable(gl.BLEND);
  let [program, u] = gpu.draw;
  gl.useProgram(program);
  gl.activeTexture(gl.TEXTURE1);
  gl.bindTexture(gl.TEXTURE_2D, gpu.bones);
  if (bonesNow) gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, 0, 2, bones, gl.RGBA, gl.FLOAT, bonesNow);
  gl.activeTexture(gl.TEXTURE0);
  gl.bindTexture(gl.TEXTURE_2D, gpu.surfels);
  gl.uniform1i(u.bones, 1);
  gl.uniformMatrix3fv(u.R, true, cam.rows.flat());
  gl.uniform3fv(u.T, cam.T);
  gl.uniform3fv(u.eye, cam.eye);
  gl.uniform2f(u.focal, cam.focal, cam.focal);
  gl.uniform2f(u.size, width, height);
  for (const name of ['texels', 'linear']) gl.uniform1i(u[name], gpu[name]);
  gl.uniform1i(u.view, view);
  gl.uniform1i(u.moving, moving);
  gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, count);
  gl.bindFramebuffer(gl.FRAMEBUFFER, null);
  gl.disable(gl.BLEND);
  [program, u] = gpu.resolve;
  gl.useProgram(program);
  gl.bindTexture(gl.TEXTURE_2D, gpu.sum);
  gl.uniform3fv(u.background, [1, 3, 5].map(k => parseInt(state.bg.slice(k, k + 2), 16) / 255));
  gl.uniform1i(u.view, view);
  gl.drawArrays(gl.TRIANGLES, 0, 3);
  if (!root.dataset.first) root.dataset.first = Math.round(performance.now()); // milliseconds until the first picture
  if (order.id === id) root.dataset.settled = location.hash; // this picture is that of the state, in the right order
}

// ---- Controls. ----
function refresh() { // the controls say what the state is
  const clip = clipOf();
  $('clip').value = state.clip;
  $('view').value = state.view;
  $('legend').hidden = state.view !== 'confidence';
  $('background').value = state.bg;
  $('time').min = clip.first;
  $('time').max = clip.last;
  const speeds = [...$('speed').options].map(option => +option.value);
  $('speed').value = speeds.reduce((best, s) => Math.abs(s - state.speed) < Math.abs(best - state.speed) ? s : best);
  const [r, g, b] = [1, 3, 5].map(k => parseInt(state.bg.slice(k, k + 2), 16));
  root.classList.toggle('dark', .3 * r + .59 * g + .11 * b < 128);
  touch();
}
const set = change => { Object.assign(state, change); refresh(); };
const zoom = factor => { state.dist = within(state.dist * factor, nearest, farthest); touch(); };
const turn = (az, el) => { state.az += az; state.el = within(state.el + el, -89, 89); touch(); };
const shift = (dx, dy) => { // pixels of the screen
  const { rows, focal } = camera(canvas.clientWidth, canvas.clientHeight), k = state.dist / focal;
  state.target = state.target.map((v, j) => v - k * (dx * rows[0][j] + dy * rows[1][j]));
  touch();
};
const play = () => set({ playing: moving && !state.playing });
const step = way => { state.playing = false; seek(seconds() + way * clipOf().step); refresh(); };
const backgrounds = ['#ffffff', '#14161a', '#808080', '#00b140'];
const keys = {
  ' ': play, k: play, ArrowLeft: () => step(-1), ArrowRight: () => step(1),
  a: () => turn(-6, 0), d: () => turn(6, 0), w: () => turn(0, 4), s: () => turn(0, -4), ArrowUp: () => turn(0, 4), ArrowDown: () => turn(0, -4),
  '+': () => zoom(.9), '=': () => zoom(.9), '-': () => zoom(1 / .9),
  '[': () => set({ speed: Math.max(state.speed / 2, slowest) }), ']': () => set({ speed: Math.min(state.speed * 2, fastest) }),
  c: () => set({ clip: (state.clip + 1) % meta.clips.length, phase: 0 }),
  n: () => set({ view: VIEWS[(VIEWS.indexOf(state.view) + 1) % 3] }),
  b: () => set({ bg: backgrounds[(backgrounds.indexOf(state.bg) + 1) % backgrounds.length] }),
  o: () => set({ spin: !state.spin }),
  r: () => set({ az: start.az, el: start.el, dist: start.dist, fov: start.fov, target: start.target, spin: false }),
  l: () => { location.hash = toHash(); if (navigator.clipboard) navigator.clipboard.writeText(location.href).catch(() => {}); },
  f: () => document.fullscreenElement ? document.exitFullscreen() : root.requestFullscreen && root.requestFullscreen(),
  h: () => root.classList.toggle('bare'),
  '?': () => { $('help').hidden = !$('help').hidden; },
};
addEventListener('keydown', e => {
  const key = keys[e.key.length === 1 ? e.key.toLowerCase() : e.key];
  if (!key || e.ctrlKey || e.metaKey || e.altKey || e.target.tagName === 'SELECT' || (e.target.tagName === 'BUTTON' && e.key === ' ')) return;
  e.preventDefault();
  key();
});
const fingers = new Map();
canvas.addEventListener('pointerdown', e => { canvas.setPointerCapture(e.pointerId); fingers.set(e.pointerId, e); });
for (const name of ['pointerup', 'pointercancel', 'lostpointercapture']) canvas.addEventListener(name, e => fingers.delete(e.pointerId));
canvas.addEventListener('pointermove', e => {
  const last = fingers.get(e.pointerId);
  if (!last) return;
  const dx = e.clientX - last.clientX, dy = e.clientY - last.clientY;
  const other = [...fingers.values()].find(f => f.pointerId !== e.pointerId);
  if (other) { // two fingers: each moves the view by half, and their distance zooms
    const apart = f => Math.hypot(f.clientX - other.clientX, f.clientY - other.clientY);
    shift(dx / 2, dy / 2);
    zoom(Math.max(apart(last), 1) / Math.max(apart(e), 1));
  } else if (e.buttons & 6 || e.shiftKey) shift(dx, dy);
  else turn(-.4 * dx, .3 * dy);
  fingers.set(e.pointerId, e);
});
canvas.addEventListener('wheel', e => { e.preventDefault(); zoom(Math.exp(Math.max(-1, Math.min(1, e.deltaY * (e.deltaMode ? .05 : .0015))))); }, { passive: false });
canvas.addEventListener('contextmenu', e => e.preventDefault());
canvas.addEventListener('dblclick', keys.r);
$('time').addEventListener('input', () => { state.playing = false; seek(+$('time').value); touch(); });
$('clip').addEventListener('change', () => set({ clip: +$('clip').value, phase: 0 }));
$('speed').addEventListener('change', () => set({ speed: +$('speed').value }));
$('view').addEventListener('change', () => set({ view: $('view').value }));
$('background').addEventListener('input', () => set({ bg: $('background').value }));
$('play').onclick = play;
$('reset').onclick = keys.r;
$('full').onclick = keys.f;
$('keys').onclick = keys['?'];
addEventListener('resize', touch);
addEventListener('hashchange', () => { fromHash(); refresh(); });

meta.clips.forEach((clip, k) => $('clip').append(new Option(clip.name, k)));
$('clip').hidden = meta.clips.length < 2;
$('line').hidden = $('speed').hidden = !moving;
build();
fromHash();
refresh();
})();
