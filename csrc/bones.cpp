// Poses of bones: from rotation vectors and shifts to dual quaternions along a tree, and back (scene/bones.py has the same in
// torch, where its many small operations cost more than drawing a small picture). In double precision: it is little.
#include <cmath>
#include <cstdint>
#include <vector>

#include "parallel.h"

namespace {

struct Quat {
  double w, x, y, z;
};
Quat operator+(Quat a, Quat b) { return {a.w + b.w, a.x + b.x, a.y + b.y, a.z + b.z}; }
Quat operator*(double s, Quat a) { return {s * a.w, s * a.x, s * a.y, s * a.z}; }
Quat operator*(Quat a, Quat b) {
  return {a.w * b.w - a.x * b.x - a.y * b.y - a.z * b.z, a.w * b.x + a.x * b.w + a.y * b.z - a.z * b.y,
          a.w * b.y - a.x * b.z + a.y * b.w + a.z * b.x, a.w * b.z + a.x * b.y - a.y * b.x + a.z * b.w};
}
Quat conjugate(Quat a) { return {a.w, -a.x, -a.y, -a.z}; }
Quat pure(const double *v) { return {0, v[0], v[1], v[2]}; }

struct DualQuat {
  Quat real, dual;
};
DualQuat operator*(const DualQuat &a, const DualQuat &b) { return {a.real * b.real, a.real * b.dual + a.dual * b.real}; }
// Gradients of a and b from that of a b.
DualQuat gradient_left(const DualQuat &to, const DualQuat &b) {
  return {to.real * conjugate(b.real) + to.dual * conjugate(b.dual), to.dual * conjugate(b.real)};
}
DualQuat gradient_right(const DualQuat &a, const DualQuat &to) {
  return {conjugate(a.real) * to.real + conjugate(a.dual) * to.dual, conjugate(a.real) * to.dual};
}

// A bone's own motion: turned by exp(twist[:3]) about its joint, then shifted by slide twist[3:].
struct Turn {
  double twist[6], joint[3], slide;
  double angle, cosine, sinc;  // of half the angle: sin(angle / 2) / angle
  double shift[3];
  DualQuat motion;
  Turn(const float *twist_of, const float *joint_of, double slide) : slide(slide) {
    for (int k = 0; k < 6; k++) twist[k] = twist_of[k];
    for (int k = 0; k < 3; k++) joint[k] = joint_of[k];
    angle = std::sqrt(twist[0] * twist[0] + twist[1] * twist[1] + twist[2] * twist[2] + 1e-12);
    cosine = std::cos(angle / 2), sinc = std::sin(angle / 2) / angle;
    motion.real = {cosine, sinc * twist[0], sinc * twist[1], sinc * twist[2]};
    // joint - turned joint, exactly 0 for no turn
    const Quat &r = motion.real, u = {0, r.x, r.y, r.z}, t = u * pure(joint) + -1. * (pure(joint) * u);
    const Quat across = 0.5 * (u * t + -1. * (t * u)), back = -r.w * t + -1. * across;
    const double fixed[3] = {back.x, back.y, back.z};
    for (int k = 0; k < 3; k++) shift[k] = slide * twist[3 + k] + fixed[k];
    motion.dual = 0.5 * (pure(shift) * motion.real);
  }
  // The gradient of the motion becomes those of twist and joint, which are added to.
  void backward(const DualQuat &to, float *to_twist, float *to_joint) const {
    const Quat &r = motion.real, to_shift = 0.5 * (to.dual * conjugate(r));
    // turned = r j r*, which enters with a minus; its r* gives what its r gives, as j and the gradient are pure
    const double minus[3] = {-to_shift.x, -to_shift.y, -to_shift.z};
    const Quat g = pure(minus), to_j = conjugate(r) * g * r;
    const Quat to_r = to.real + -0.5 * (pure(shift) * to.dual) + -2. * (g * r * pure(joint));
    const double along = to_r.x * twist[0] + to_r.y * twist[1] + to_r.z * twist[2];
    const double slope = (along * (0.5 * cosine - sinc) / angle - 0.5 * to_r.w * sinc * angle) / angle;
    const double vector[3] = {to_r.x, to_r.y, to_r.z}, pull[3] = {to_shift.x, to_shift.y, to_shift.z};
    const double back[3] = {to_j.x, to_j.y, to_j.z};
    for (int k = 0; k < 3; k++) {
      to_twist[k] = (float)(sinc * vector[k] + slope * twist[k]);
      to_twist[3 + k] = (float)(slide * pull[k]);
      to_joint[k] += (float)(pull[k] + back[k]);
    }
  }
};

void store(const DualQuat &dq, float *p) {
  const double values[8] = {dq.real.w, dq.real.x, dq.real.y, dq.real.z, dq.dual.w, dq.dual.x, dq.dual.y, dq.dual.z};
  for (int k = 0; k < 8; k++) p[k] = (float)values[k];
}
DualQuat load(const float *p) { return {{p[0], p[1], p[2], p[3]}, {p[4], p[5], p[6], p[7]}}; }

}  // namespace

extern "C" {
// twists [s b 6], joints [b 3], parents [b] (-1: none), order [b] (every bone after its parent) -> dual_quats [s b 8], root
// frame from canonical. `slide`: the share of its shift that a bone with a parent makes. These return an Outcome.
int fourdgen_pose_bones_forward(const float *twists, const float *joints, const int32_t *parents, const int32_t *order,
                                float slide, int s, int b, float *dual_quats) {
  return outcome_of([&] {
    std::vector<DualQuat> posed(b);
    for (int64_t row = 0; row < s; row++)
      for (int i = 0; i < b; i++) {
        const int bone = order[i], parent = parents[bone];
        const Turn turn(twists + (row * b + bone) * 6, joints + bone * 3, parent < 0 ? 1. : slide);
        posed[bone] = parent < 0 ? turn.motion : posed[parent] * turn.motion;
        store(posed[bone], dual_quats + (row * b + bone) * 8);
      }
  });
}
// Gradients of twists and joints, written.
int fourdgen_pose_bones_backward(const float *twists, const float *joints, const int32_t *parents, const int32_t *order,
                                 float slide, int s, int b, const float *dual_quats, const float *grad, float *to_twists,
                                 float *to_joints) {
  return outcome_of([&] {
    std::vector<DualQuat> to(b);
    for (int k = 0; k < b * 3; k++) to_joints[k] = 0.f;
    for (int64_t row = 0; row < s; row++) {
      for (int bone = 0; bone < b; bone++) to[bone] = load(grad + (row * b + bone) * 8);
      for (int i = b - 1; i >= 0; i--) {
        const int bone = order[i], parent = parents[bone];
        const Turn turn(twists + (row * b + bone) * 6, joints + bone * 3, parent < 0 ? 1. : slide);
        DualQuat own = to[bone];
        if (parent >= 0) {
          const DualQuat up = gradient_left(own, turn.motion);
          to[parent] = {to[parent].real + up.real, to[parent].dual + up.dual};
          own = gradient_right(load(dual_quats + (row * b + parent) * 8), own);
        }
        turn.backward(own, to_twists + (row * b + bone) * 6, to_joints + bone * 3);
      }
    }
  });
}
}
