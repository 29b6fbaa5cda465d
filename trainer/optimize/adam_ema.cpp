#include "trainer/optimize/adam_ema.hpp"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <cmath>

#include "trainer/kernels/optimizer_pass.hpp"
#include "trainer/optimize/gradient_norm.hpp"
#include "trainer/optimize/learning_rate.hpp"
#include "trainer/optimize/power_ema.hpp"

namespace perrin::trainer {
namespace {

constexpr std::int64_t kGrainBlocks = 8;  // 32,768 elements, about 65 us of one thread: less is not worth a second one

void update_on_cpu(ParameterArena& arena, const Segment& segment, const AdamScalars& scalars,
                   const std::vector<float>& ema_weights) {
  std::vector<MovingAverage> averages;
  for (std::size_t e = 0; e < ema_weights.size(); ++e)
    averages.push_back({arena.emas()[e].mutable_data_ptr<float>() + segment.state_offset, ema_weights[e]});
  // Of a sharded arena the copy is made once the others' weights are there.
  const at::Tensor& copied = arena.copy_of_weights();
  const bool copies = copied.defined() && !arena.plan().sharded();
  const AdamArrays arrays{
      .weights = arena.weights().mutable_data_ptr<float>() + segment.arena_offset,
      .gradients = arena.gradients().const_data_ptr<float>() + segment.arena_offset,
      .m = arena.adam_m().mutable_data_ptr<float>() + segment.state_offset,
      .v = arena.adam_v().mutable_data_ptr<float>() + segment.state_offset,
      .averages = averages.data(),
      .average_count = static_cast<int>(averages.size()),
      .copy = copies ? static_cast<BFloat16*>(copied.mutable_data_ptr()) + segment.arena_offset : nullptr};
  at::parallel_for(0, segment.count / kNormBlock, kGrainBlocks, [&](std::int64_t begin, std::int64_t end) {
    adam_update(arrays, scalars, begin * kNormBlock, (end - begin) * kNormBlock);
  });
}

/// The same formulas by LibTorch's operators, for devices without a kernel of our own.
void update_by_operators(ParameterArena& arena, const Segment& segment, const AdamScalars& s,
                         const std::vector<float>& ema_weights) {
  const auto state = [&](at::Tensor& flat) { return flat.narrow(0, segment.state_offset, segment.count); };
  at::Tensor weights = arena.weights().narrow(0, segment.arena_offset, segment.count);
  const at::Tensor gradient = arena.gradients().narrow(0, segment.arena_offset, segment.count) * s.gradient_scale;
  const at::Tensor m = state(arena.adam_m()).mul_(s.beta1).add_(gradient, s.one_minus_beta1);
  const at::Tensor v = state(arena.adam_v()).mul_(s.beta2).addcmul_(gradient, gradient, s.one_minus_beta2);
  weights.addcdiv_(m, v.sqrt().mul_(s.v_scale).add_(s.eps), -s.rate);
  for (std::size_t e = 0; e < ema_weights.size(); ++e) state(arena.emas()[e]).lerp_(weights, ema_weights[e]);
  if (arena.copy_of_weights().defined() && !arena.plan().sharded())
    arena.copy_of_weights().narrow(0, segment.arena_offset, segment.count).copy_(weights);
}

}  // namespace

std::int64_t optimizer_pass_bytes(const ParameterArena& arena) {
  constexpr std::int64_t kNorm = 1, kRead = 4, kWritten = 3, kEma = 2;
  const auto emas = static_cast<std::int64_t>(arena.emas().size());
  const auto float_bytes = static_cast<std::int64_t>(sizeof(float));
  const auto copy_bytes = static_cast<std::int64_t>(
      arena.copy_of_weights().defined() && !arena.plan().sharded() ? arena.copy_of_weights().element_size() : 0);
  return arena.plan().state_size() * ((kNorm + kRead + kWritten + kEma * emas) * float_bytes + copy_bytes);
}

AdamEma::AdamEma(OptimizerConfig optimizer, EmaConfig ema, std::int64_t total_steps)
    : optimizer_(optimizer), ema_(std::move(ema)), total_steps_(total_steps) {
  for (const double sigma_rel : ema_.power_sigmas) power_gammas_.push_back(power_ema_gamma(sigma_rel));
}

UpdateOutcome AdamEma::update(ParameterArena& arena, double norm, std::int64_t step, std::int64_t updates,
                              const std::function<void(std::size_t)>& updated) const {
  UpdateOutcome outcome{norm, learning_rate(optimizer_, step, total_steps_), false};
  if (!std::isfinite(norm)) {
    outcome.skipped = true;
    return outcome;
  }
  const double clip = optimizer_.clip_norm;
  const double t = static_cast<double>(updates + 1);
  const double correction1 = 1.0 - std::pow(optimizer_.beta1, t);
  const double root_correction2 = std::sqrt(1.0 - std::pow(optimizer_.beta2, t));
  const bool corrected = optimizer_.eps_form == AdamEpsilon::corrected;
  const AdamScalars scalars{
      .gradient_scale = static_cast<float>(clip > 0 && norm > clip ? clip / norm : 1.0),
      .beta1 = static_cast<float>(optimizer_.beta1),
      .one_minus_beta1 = static_cast<float>(1.0 - optimizer_.beta1),  // in fp64: 1 - 0.999f would be 5e-5 off
      .beta2 = static_cast<float>(optimizer_.beta2),
      .one_minus_beta2 = static_cast<float>(1.0 - optimizer_.beta2),
      .rate = static_cast<float>(corrected ? outcome.lr / correction1 : outcome.lr * root_correction2 / correction1),
      .v_scale = static_cast<float>(corrected ? 1.0 / root_correction2 : 1.0),
      .eps = static_cast<float>(optimizer_.eps)};
  std::vector<float> ema_weights;
  for (const double decay : ema_.decays)
    ema_weights.push_back(static_cast<float>(1.0 - ema_decay(decay, ema_.warmup, updates)));
  for (const double gamma : power_gammas_)
    ema_weights.push_back(static_cast<float>(power_ema_weight(gamma, updates + 1)));

  const at::NoGradGuard no_grad;
  const std::vector<Segment> segments = arena.plan().own();
  for (std::size_t i = 0; i < segments.size(); ++i) {
    if (arena.weights().is_cpu())
      update_on_cpu(arena, segments[i], scalars, ema_weights);
    else
      update_by_operators(arena, segments[i], scalars, ema_weights);
    updated(i);
  }
  return outcome;
}

}  // namespace perrin::trainer
