#include "launch/commands/bound_report.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <vector>

#include "data/file.hpp"
#include "trainer/interchange/line_chart.hpp"
#include "trainer/interchange/npz.hpp"

namespace perrin::launch {
namespace {

using trainer::VariationalBound;

/// Neighbouring steps of the process, without the decoder's.
struct Range {
  std::int64_t first, last;  ///< timesteps
  double vb;                 ///< sum
  double x0_mse, eps_mse;    ///< means
};

Range range_of(const VariationalBound& bound, std::size_t begin, std::size_t end) {
  const auto sum = [&](const std::vector<double>& values) {
    return std::accumulate(values.begin() + static_cast<std::ptrdiff_t>(begin),
                           values.begin() + static_cast<std::ptrdiff_t>(end), 0.0);
  };
  const auto count = static_cast<double>(end - begin);
  return {bound.timesteps[begin], bound.timesteps[end - 1], sum(bound.vb), sum(bound.x0_mse) / count,
          sum(bound.eps_mse) / count};
}

/// All steps of the process but the decoder's in at most ten ranges of equal length, ascending.
std::vector<Range> ranges_of(const VariationalBound& bound) {
  const std::size_t steps = bound.vb.size() - 1, count = std::min<std::size_t>(10, steps);
  std::vector<Range> ranges;
  for (std::size_t i = 0; i < count; ++i)
    ranges.push_back(range_of(bound, 1 + i * steps / count, 1 + (i + 1) * steps / count));
  return ranges;
}

double sum_between(const VariationalBound& bound) { return std::accumulate(bound.vb.begin() + 1, bound.vb.end(), 0.0); }

}  // namespace

nlohmann::ordered_json bound_summary(const VariationalBound& bound) {
  nlohmann::ordered_json ranges = nlohmann::ordered_json::array();
  for (const Range& range : ranges_of(bound))
    ranges.push_back({{"first_t", range.first},
                      {"last_t", range.last},
                      {"vb", range.vb},
                      {"x0_mse", range.x0_mse},
                      {"eps_mse", range.eps_mse}});
  return {{"bits_per_dim", bound.total()},
          {"L_T", bound.prior},
          {"L_t-1", sum_between(bound)},
          {"L_0", bound.vb.front()},
          {"L_t-1_ranges", std::move(ranges)}};
}

std::string bound_table(const VariationalBound& bound) {
  std::string table = fmt::format("{:<28}{:>14}{:>14}{:>14}\n", "", "vb (bits/dim)", "x0-mse", "eps-mse");
  const auto add = [&](const std::string& name, double vb) { table += fmt::format("{:<28}{:>14.6f}", name, vb); };
  const auto add_errors = [&](double x0_mse, double eps_mse) {
    table += fmt::format("{:>14.6f}{:>14.6f}\n", x0_mse, eps_mse);
  };
  add("L_T", bound.prior);
  table += '\n';
  const std::vector<Range> ranges = ranges_of(bound);
  if (!ranges.empty()) {
    const Range all = range_of(bound, 1, bound.vb.size());
    add(fmt::format("L_t-1  t = {} .. {}", all.first, all.last), all.vb);
    add_errors(all.x0_mse, all.eps_mse);
    std::for_each(ranges.rbegin(), ranges.rend(), [&](const Range& range) {
      add(fmt::format("         {} .. {}", range.first, range.last), range.vb);
      add_errors(range.x0_mse, range.eps_mse);
    });
  }
  add(fmt::format("L_0    t = {}", bound.timesteps.front()), bound.vb.front());
  add_errors(bound.x0_mse.front(), bound.eps_mse.front());
  add("total", bound.total());
  return table + '\n';
}

void write_bound(const std::filesystem::path& folder, const VariationalBound& bound,
                 const nlohmann::ordered_json& report) {
  data::write_file_durably(folder / "vlb.json", report.dump(2) + "\n");

  const auto array = [](const std::vector<double>& values) { return at::tensor(values, at::kDouble); };
  trainer::write_npz(folder / "vlb.npz", {{"timesteps", at::tensor(bound.timesteps, at::kLong)},
                                          {"vb", array(bound.vb)},
                                          {"x0_mse", array(bound.x0_mse)},
                                          {"eps_mse", array(bound.eps_mse)},
                                          {"prior", at::scalar_tensor(bound.prior, at::kDouble)},
                                          {"total", at::scalar_tensor(bound.total(), at::kDouble)},
                                          {"images", at::scalar_tensor(bound.images, at::kLong)}});

  const std::vector<double> t(bound.timesteps.begin(), bound.timesteps.end());
  const std::array charts = {
      trainer::LineChart{.title = fmt::format("Variational bound: {:.4f} bits/dim", bound.total()),
                         .x_label = "timestep t",
                         .y_label = "bits/dim",
                         .log_y = true,
                         .series = {{"term of t: KL, at t = 0 the decoder's", t, bound.vb}}},
      trainer::LineChart{.title = "Mean squared errors of the network",
                         .x_label = "timestep t",
                         .y_label = "mean squared error",
                         .log_y = true,
                         .series = {{"x0", t, bound.x0_mse}, {"eps", t, bound.eps_mse}}}};
  data::write_file_durably(folder / "vlb.svg", trainer::to_svg(charts));
}

}  // namespace perrin::launch
