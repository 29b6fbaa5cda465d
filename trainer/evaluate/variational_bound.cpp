#include "trainer/evaluate/variational_bound.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <numeric>
#include <span>

#include "trainer/deadlines.hpp"
#include "trainer/diffusion/samplers.hpp"
#include "trainer/images.hpp"
#include "trainer/random/keyed_noise.hpp"
#include "trainer/telemetry/progress_line.hpp"

namespace perrin::trainer {
namespace {

using Clock = std::chrono::steady_clock;

/// Tells how far this rank is, which is how far all are.
class Progress {
 public:
  Progress(const Narrator& narrate, std::int64_t passes) : narrate_(narrate), passes_(passes) {}

  void advance() {
    ++done_;
    const auto now = Clock::now();
    if (!narrate_ || now < next_ || done_ == passes_) return;
    next_ = now + std::chrono::seconds(10);
    const double seconds = std::chrono::duration<double>(now - begun_).count();
    const double left = seconds / static_cast<double>(done_) * static_cast<double>(passes_ - done_);
    narrate_(fmt::format("variational bound: {:.1f} %, {} left",
                         100.0 * static_cast<double>(done_) / static_cast<double>(passes_), format_duration(left)));
  }

 private:
  const Narrator& narrate_;
  const std::int64_t passes_;
  std::int64_t done_ = 0;
  const Clock::time_point begun_ = Clock::now();
  Clock::time_point next_ = begun_ + std::chrono::seconds(2);  // a first estimate soon
};

/// Sums over the images of each batch: the prior, then vb, x0_mse and eps_mse of each step. A rank leaves zero what it
/// did not compute, so that adding the ranks' numbers rounds nothing.
class Sums {
 public:
  Sums(std::int64_t batches, std::int64_t steps)
      : batches_(static_cast<std::size_t>(batches)),
        row_(1 + 3 * static_cast<std::size_t>(steps)),
        values_(batches_ * row_) {}

  double& prior(std::int64_t batch) { return values_[static_cast<std::size_t>(batch) * row_]; }
  void set(std::int64_t batch, std::int64_t step, const BoundTerms& terms) {
    const at::Tensor sums = at::stack({terms.vb.sum(), terms.x0_mse.sum(), terms.eps_mse.sum()}).cpu();
    std::copy_n(sums.const_data_ptr<double>(), 3, &prior(batch) + 1 + 3 * step);
  }

  void add_ranks(comm::Communicator& control) {
    control.all_reduce(std::span<double>(values_), comm::ReduceOp::sum).wait(kLongWork);
  }

  /// Column 0: prior; 1 + 3 s + k: quantity k of step s. Batches are added in their order.
  double mean(std::size_t column, std::int64_t images) const {
    double sum = 0;
    for (std::size_t batch = 0; batch < batches_; ++batch) sum += values_[batch * row_ + column];
    return sum / static_cast<double>(images);
  }
  std::vector<double> means(std::size_t quantity, std::int64_t images) const {
    std::vector<double> of_steps;
    for (std::size_t column = 1 + quantity; column < row_; column += 3) of_steps.push_back(mean(column, images));
    return of_steps;
  }

 private:
  std::size_t batches_;
  std::size_t row_;
  std::vector<double> values_;
};

Prediction in_double(const Prediction& prediction) {
  const auto wide = [](const at::Tensor& t) { return t.defined() ? t.to(at::kDouble) : t; };
  return {wide(prediction.x0), wide(prediction.eps), wide(prediction.variance_fraction)};
}

/// One timestep for a whole batch.
/// @param level  of the network's schedule   @param step  of `process`, which may be a respaced one
BoundTerms terms_at(const Denoiser& denoiser, const DiffusionProcess& process, const BoundOptions& options,
                    const at::Tensor& x_0, const at::Tensor& eps, const NoiseLevel& level, std::int64_t step) {
  const at::Tensor t = at::full({x_0.size(0)}, step, x_0.options().dtype(at::kLong));
  const at::Tensor x_t = level.alpha * x_0 + level.sigma * eps;
  const Prediction prediction = in_double(denoiser(x_t, level));
  return bound_terms(process, options.variance, prediction, x_0.to(at::kDouble), x_t.to(at::kDouble),
                     eps.to(at::kDouble), t, options.cdf);
}

}  // namespace

double VariationalBound::total() const { return std::accumulate(vb.begin(), vb.end(), prior); }

VariationalBound variational_bound(const BatchDenoiser& denoiser_of, const NoiseSchedule& schedule,
                                   const BoundOptions& options, const data::Dataset& heldout,
                                   comm::Communicator& control, at::Device device, const Narrator& narrate) {
  const at::NoGradGuard no_grad;
  std::vector<std::int64_t> timesteps = spaced_timesteps(schedule, options.steps, Spacing::linspace);
  std::reverse(timesteps.begin(), timesteps.end());
  const auto steps = static_cast<std::int64_t>(timesteps.size());
  const DiffusionProcess process(steps == schedule.timesteps() ? schedule : respaced(schedule, timesteps), device);
  const data::ImageShape shape = heldout.shape();
  const std::int64_t images = std::min(options.images, static_cast<std::int64_t>(heldout.size())),
                     batches = (images + options.batch_size - 1) / options.batch_size, ranks = control.size();

  const Narrator heard = control.rank() == 0 ? narrate : Narrator{};
  if (heard)
    heard(fmt::format("variational bound: {} images at {} timesteps, {} forward passes of up to {} images on {} rank{}",
                      images, steps, batches * steps, std::min(images, options.batch_size), ranks,
                      ranks == 1 ? "" : "s"));
  Progress progress(heard, (batches * steps + ranks - 1) / ranks);
  Sums sums(batches, steps);
  for (std::int64_t batch = 0; batch < batches; ++batch) {
    const std::int64_t first = batch * options.batch_size, count = std::min(options.batch_size, images - first);
    const data::Batch pixels =
        data::read_batch(heldout, static_cast<std::uint64_t>(first), static_cast<std::uint64_t>(count));
    const at::Tensor x_0 = to_model_range(pixels.images, shape, device);
    const Denoiser denoiser = denoiser_of(pixels);
    if (batch % ranks == control.rank())
      sums.prior(batch) = prior_term(process, x_0.to(at::kDouble)).sum().item<double>();
    for (std::int64_t step = 0; step < steps; ++step) {
      if ((batch * steps + step) % ranks != control.rank()) continue;  // pairs in turn: the shares differ by one
      const std::int64_t t = timesteps[static_cast<std::size_t>(step)];
      // One seed for all runs, so that runs compare.
      const Stream stream{.seed = 0, .purpose = Purpose::bound_noise, .step = static_cast<std::uint32_t>(t)};
      const at::Tensor eps =
          keyed_normal(stream, pixels.positions, {shape.channels, shape.height, shape.width}).to(device);
      sums.set(batch, step, terms_at(denoiser, process, options, x_0, eps, schedule.level(t), step));
      progress.advance();
    }
  }
  sums.add_ranks(control);
  return {timesteps, sums.means(0, images), sums.means(1, images), sums.means(2, images), sums.mean(0, images), images};
}

}  // namespace perrin::trainer
