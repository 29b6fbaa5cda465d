#include "launch/commands/bench_operators.hpp"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "launch/commands/median.hpp"
#include "trainer/model/fused_norm.hpp"

namespace perrin::launch {
namespace {

struct OperatorsArguments {
  int rounds = 15;
  bool json = false;
};

struct NormShape {
  const char* network;
  std::int64_t samples, channels, size, groups;
};

constexpr NormShape kShapes[] = {{"small", 64, 32, 28, 8},    {"small", 64, 32, 28, 32},   {"small", 64, 96, 28, 8},
                                 {"small", 64, 64, 14, 8},    {"small", 64, 128, 14, 8},   {"small", 64, 64, 7, 8},
                                 {"cifar10", 8, 128, 32, 32}, {"cifar10", 8, 256, 32, 32}, {"cifar10", 8, 256, 16, 32},
                                 {"cifar10", 8, 512, 16, 32}, {"cifar10", 8, 256, 8, 32},  {"cifar10", 8, 256, 4, 32},
                                 {"cifar10", 8, 512, 4, 32}};

enum Direction { kForward, kBackward };
enum Way { kPerrin, kLibTorch, kCopy, kCached };
constexpr std::array kDirections = {"forward", "backward"};
constexpr std::array kWays = {"perrin", "libtorch", "copy", "cached"};

/// Milliseconds of every way, of each round.
using Times = std::array<std::array<std::vector<double>, kWays.size()>, kDirections.size()>;

template <typename Work>
double milliseconds(const Work& work) {
  const auto begun = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begun).count();
}

/// Group norm and SiLU of one shape, and what it is compared with.
class NormBench {
 public:
  NormBench(const NormShape& shape, at::ScalarType type) : shape_(shape) {
    x_ = activations(shape.samples, shape.channels, shape.size, shape.size, type).requires_grad_();
    dy_ = activations(shape.samples, shape.channels, shape.size, shape.size, type);
    copies_ = {at::empty_like(dy_), at::empty_like(dy_)};
    // A narrow sample with the same groups where they fit. x, dy, dx and du take 24 KiB of the first-level cache.
    cached_channels_ = std::min<std::int64_t>(shape.channels, 32);
    cached_groups_ = std::max<std::int64_t>(1, cached_channels_ / (shape.channels / shape.groups));
    cached_pixels_ = std::min<std::int64_t>(24 * 1024 / (16 * cached_channels_), shape.size * shape.size);
    cached_x_ = activations(at::get_num_threads(), cached_channels_, cached_pixels_, 1, type);
    cached_dy_ = activations(at::get_num_threads(), cached_channels_, cached_pixels_, 1, type);
    // The small tensors of both are of the activations' type: LibTorch takes no mixture in backward.
    norm_ = {.weight = at::ones({shape.channels}, at::TensorOptions(type)).requires_grad_(),
             .bias = at::zeros({shape.channels}, at::TensorOptions(type)).requires_grad_(),
             .groups = shape.groups,
             .eps = 1e-5};
  }

  void round(Times& times) {
    at::Tensor y;
    times[kForward][kPerrin].push_back(milliseconds([&] { y = trainer::fused_norm(x_, {}, norm_); }));
    times[kBackward][kPerrin].push_back(backward_milliseconds(y));
    times[kForward][kLibTorch].push_back(
        milliseconds([&] { y = at::silu(at::group_norm(x_, norm_.groups, norm_.weight, norm_.bias, norm_.eps)); }));
    times[kBackward][kLibTorch].push_back(backward_milliseconds(y));
    const at::NoGradGuard no_grad;
    times[kForward][kCopy].push_back(milliseconds([&] { copy(x_, copies_[0]); }));
    // Two tensors are read and one is written: half as much again as a copy.
    times[kBackward][kCopy].push_back(1.5 * milliseconds([&] { copy(dy_, copies_[1]); }));
    cached_round(times);
  }

 private:
  static at::Tensor activations(std::int64_t samples, std::int64_t channels, std::int64_t height, std::int64_t width,
                                at::ScalarType type) {
    return at::randn({samples, channels, height, width}).to(type).contiguous(at::MemoryFormat::ChannelsLast);
  }

  double backward_milliseconds(const at::Tensor& y) const {
    const double taken = milliseconds([&] { y.backward(dy_); });
    for (const at::Tensor* leaf : {&x_, &norm_.weight, &norm_.bias}) leaf->mutable_grad().reset();
    return taken;
  }

  static void copy(const at::Tensor& from, const at::Tensor& to) {
    const auto* source = static_cast<const char*>(from.const_data_ptr());
    auto* target = static_cast<char*>(to.mutable_data_ptr());
    at::parallel_for(0, static_cast<std::int64_t>(from.nbytes()), 4096, [&](std::int64_t begin, std::int64_t end) {
      std::memcpy(target + begin, source + begin, static_cast<std::size_t>(end - begin));
    });
  }

  /// The kernel over one small sample again and again, on every thread its own, scaled to the whole: what a pixel takes
  /// and what a channel takes beside its pixels count as often as the shape has them, or a sample of 48 pixels would
  /// count the latter 20 times too often for one of 1024.
  void cached_round(Times& times) {
    const auto add = [&]<typename T>(T) {
      const std::int64_t fewer = std::max<std::int64_t>(1, cached_pixels_ / 3);
      const PassTimes some = cached_passes<T>(fewer), all = cached_passes<T>(cached_pixels_);
      const std::int64_t beyond = shape_.size * shape_.size - cached_pixels_;
      const double samples = static_cast<double>(shape_.samples * shape_.channels) /
                             static_cast<double>(cached_channels_ * cached_x_.size(0));
      for (std::size_t d = 0; d < kDirections.size(); ++d) {
        const double pixel = (all[d] - some[d]) / static_cast<double>(cached_pixels_ - fewer);
        times[d][kCached].push_back(samples * (all[d] + static_cast<double>(beyond) * pixel));
      }
    };
    if (x_.scalar_type() == at::kFloat)
      add(float{});
    else
      add(trainer::BFloat16{});
  }

  /// Milliseconds of a thread for one cached sample, in both directions.
  using PassTimes = std::array<double, kDirections.size()>;
  template <typename T>
  PassTimes cached_passes(std::int64_t pixels) {
    const trainer::GroupNormShape shape{pixels, cached_channels_, cached_groups_, cached_channels_};
    const at::Tensor gamma = at::ones({cached_channels_}), beta = at::zeros({cached_channels_});
    const trainer::GroupNormParameters parameters{.gamma = gamma.const_data_ptr<float>(),
                                                  .beta = beta.const_data_ptr<float>()};
    const std::int64_t threads = cached_x_.size(0),
                       repetitions = std::max<std::int64_t>(2, 200'000 / cached_x_[0].numel());
    const at::Tensor y = at::empty_like(cached_x_), dx = at::empty_like(cached_x_);
    const at::Tensor statistics = at::empty({2, threads, cached_groups_}),
                     sums = at::empty({2, threads, cached_channels_});
    const auto scratch_size = static_cast<std::int64_t>(trainer::group_norm_scratch(shape));
    const at::Tensor scratch = at::empty({threads, scratch_size});
    const auto data = [](const at::Tensor& t) { return static_cast<T*>(t.mutable_data_ptr()); };
    float* const mean = statistics.mutable_data_ptr<float>();
    float* const rstd = mean + threads * cached_groups_;
    float* const du_sum = sums.mutable_data_ptr<float>();
    const auto on_threads = [&](const auto& work) {
      const double taken = milliseconds([&] {
        at::parallel_for(0, threads, 1, [&](std::int64_t begin, std::int64_t end) {
          for (std::int64_t n = begin; n < end; ++n)
            for (std::int64_t i = 0; i < repetitions; ++i)
              work(trainer::GroupNormRange{n, n + 1, scratch.mutable_data_ptr<float>() + n * scratch_size});
        });
      });
      return taken / static_cast<double>(repetitions);
    };
    PassTimes taken;
    taken[kForward] = on_threads([&](const trainer::GroupNormRange& range) {
      trainer::group_norm_forward(shape, parameters,
                                  trainer::GroupNormForward<T>{{data(cached_x_), nullptr}, data(y), mean, rstd, 1e-5F},
                                  range);
    });
    taken[kBackward] = on_threads([&](const trainer::GroupNormRange& range) {
      trainer::group_norm_backward(shape, parameters,
                                   trainer::GroupNormBackward<T>{.dy = data(cached_dy_),
                                                                 .x = {data(cached_x_), nullptr},
                                                                 .mean = mean,
                                                                 .rstd = rstd,
                                                                 .residual = {},
                                                                 .dx = {data(dx), nullptr},
                                                                 .du_sum = du_sum,
                                                                 .du_x_sum = du_sum + threads * cached_channels_,
                                                                 .dadd = nullptr},
                                   range);
    });
    return taken;
  }

  NormShape shape_;
  std::int64_t cached_channels_, cached_groups_, cached_pixels_;
  at::Tensor x_, dy_, cached_x_, cached_dy_;
  std::array<at::Tensor, 2> copies_;
  trainer::FusedNorm norm_;
};

void print(const NormShape& shape, at::ScalarType type, const Times& times, bool json) {
  const char* precision = type == at::kFloat ? "fp32" : "bf16";
  for (std::size_t d = 0; d < kDirections.size(); ++d) {
    std::array<double, kWays.size()> ms;
    for (std::size_t w = 0; w < kWays.size(); ++w) ms[w] = median(times[d][w]);
    const double limit = std::max(ms[kCopy], ms[kCached]);
    if (!json) {
      fmt::print("{:<8} {:>3}x{}x{}x{:<3} {:>3} {} {:<9}{:>9.3f}{:>9.3f}{:>9.3f}{:>9.3f}{:>9.1f}{:>8.2f}\n",
                 shape.network, shape.samples, shape.channels, shape.size, shape.size, shape.groups, precision,
                 kDirections[d], ms[kPerrin], ms[kLibTorch], ms[kCopy], ms[kCached], ms[kLibTorch] / ms[kPerrin],
                 ms[kPerrin] / limit);
      continue;
    }
    nlohmann::ordered_json line = {{"operator", "group_norm_silu"},
                                   {"network", shape.network},
                                   {"shape", {shape.samples, shape.channels, shape.size, shape.size}},
                                   {"groups", shape.groups},
                                   {"precision", precision},
                                   {"direction", kDirections[d]},
                                   {"threads", at::get_num_threads()}};
    for (std::size_t w = 0; w < kWays.size(); ++w) line[fmt::format("{}_ms", kWays[w])] = ms[w];
    line[fmt::format("ratio_{}_vs_libtorch", kDirections[d])] = ms[kLibTorch] / ms[kPerrin];
    line[fmt::format("ratio_{}_vs_limit", kDirections[d])] = ms[kPerrin] / limit;
    fmt::print("{}\n", line.dump());
  }
}

ExitCode bench_operators(const OperatorsArguments& arguments) {
  if (!arguments.json)
    fmt::print(
        "group norm + SiLU, channels-last, {} threads, median of {} rounds, "
        "milliseconds\n{:<46}{:>9}{:>9}{:>9}{:>9}{:>9}{:>8}\n",
        at::get_num_threads(), arguments.rounds, "network, shape, groups", "perrin", "libtorch", "copy", "cached",
        "speedup", "limit");
  for (const NormShape& shape : kShapes) {
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
      NormBench bench(shape, type);
      Times times, warm_up;
      bench.round(warm_up);
      for (int i = 0; i < arguments.rounds; ++i) bench.round(times);
      print(shape, type, times, arguments.json);
    }
  }
  return ExitCode::ok;
}

}  // namespace

Command add_bench_operators(CLI::App& bench) {
  CLI::App* app =
      bench.add_subcommand("operators", "The operators between the convolutions, beside LibTorch's and their limits");
  const auto arguments = std::make_shared<OperatorsArguments>();
  app->add_option("--rounds", arguments->rounds, "Rounds in which all take turns; medians count")
      ->check(CLI::Range(1, 10'000).description(""))
      ->type_name("N")
      ->capture_default_str();
  app->add_flag("--json", arguments->json, "Print JSON, one object a line");
  app->footer(
      "copy: a copy of the bytes that the operator must move (forward reads x and writes y; backward reads dy and x "
      "and\n"
      "writes dx); cached: the same arithmetic on data in the first-level cache; limit: perrin over the slower of the\n"
      "two; speedup: LibTorch over perrin.\n");
  return {app, [arguments](Session&) { return bench_operators(*arguments); }};
}

}  // namespace perrin::launch
