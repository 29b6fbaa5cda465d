#include "trainer/interchange/line_chart.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <stdexcept>

namespace perrin::trainer {
namespace {

constexpr double kWidth = 760, kHeight = 360;  // of one chart, in pixels
constexpr double kLeft = 76, kRight = 24, kTop = 66, kBottom = 54;
constexpr double kPlotWidth = kWidth - kLeft - kRight, kPlotHeight = kHeight - kTop - kBottom;
// Paul Tol's bright scheme: six colours that the colour-blind tell apart.
constexpr std::array kColours = {"#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377"};

std::string escaped(const std::string& text) {
  std::string safe;
  for (const char c : text) {
    if (c == '&')
      safe += "&amp;";
    else if (c == '<')
      safe += "&lt;";
    else if (c == '>')
      safe += "&gt;";
    else
      safe += c;
  }
  return safe;
}

struct Tick {
  double value;
  std::string label;
};

/// One axis: where values lie, from 0 to 1, and the ticks that help reading it.
struct Axis {
  double first, last;  // logarithms where log is set
  bool log;
  std::vector<Tick> ticks;

  double place(double value) const { return ((log ? std::log10(value) : value) - first) / (last - first); }
  bool shows(double value) const { return std::isfinite(value) && (!log || value > 0); }
};

/// 1, 2 or 5 times a power of ten, the least not below `value`.
double round_step(double value) {
  const double decade = std::pow(10, std::floor(std::log10(value)));
  for (const double step : {1.0, 2.0, 5.0})
    if (step * decade >= value * (1 - 1e-9)) return step * decade;
  return 10 * decade;
}

Axis linear_axis(double least, double most) {
  if (!(most > least)) most = least + 1;
  constexpr double kMostTicks = 6;
  const double step = round_step((most - least) / kMostTicks);
  Axis axis{least, most, false, {}};
  for (double tick = std::ceil(least / step) * step; tick <= most + step * 1e-6; tick += step)
    axis.ticks.push_back({tick, fmt::format("{:g}", std::abs(tick) < step * 1e-6 ? 0 : tick)});
  return axis;
}

/// 10 to the power of a tick, as text with a raised exponent; small powers in full.
std::string power_label(int digit, int exponent) {
  if (exponent >= -2 && exponent <= 3) return fmt::format("{:g}", digit * std::pow(10, exponent));
  const std::string raised = fmt::format("10<tspan dy='-5' font-size='9'>{}</tspan>", exponent);
  return digit == 1 ? raised : fmt::format("{}·{}", digit, raised);
}

/// Whole decades for wide ranges; 1, 2 and 5 of each where there are few.
Axis log_axis(double least, double most) {
  double first = std::log10(least), last = std::log10(most);
  const bool few = last - first < 2.5;
  const auto outward = [&](double logarithm, double direction) {
    if (!few) return direction < 0 ? std::floor(logarithm) : std::ceil(logarithm);
    const double decade = std::floor(logarithm), within = logarithm - decade;
    const std::array marks = {0.0, std::log10(2), std::log10(5), 1.0};
    if (direction < 0) return decade + *(std::upper_bound(marks.begin(), marks.end(), within) - 1);
    return decade + *std::lower_bound(marks.begin(), marks.end(), within);
  };
  first = outward(first, -1);
  last = outward(last, 1);
  if (last - first < 0.1) last = first + 1;
  Axis axis{first, last, true, {}};
  const int stride = static_cast<int>(std::ceil((last - first) / 8));
  for (int exponent = static_cast<int>(std::floor(first)); exponent <= last + 1e-9; exponent += stride) {
    for (const int digit : few ? std::vector{1, 2, 5} : std::vector{1}) {
      const double at = exponent + std::log10(digit);
      if (at >= first - 1e-9 && at <= last + 1e-9)
        axis.ticks.push_back({std::pow(10, at), power_label(digit, exponent)});
    }
  }
  return axis;
}

Axis axis_over(const std::vector<Series>& series, std::vector<double> Series::*values, bool log) {
  double least = std::numeric_limits<double>::infinity(), most = -least;
  for (const Series& line : series) {
    for (const double value : line.*values) {
      if (!std::isfinite(value) || (log && value <= 0)) continue;
      least = std::min(least, value);
      most = std::max(most, value);
    }
  }
  if (least > most) least = most = 1;  // nothing to show
  return log ? log_axis(least, most) : linear_axis(least, most);
}

/// A line's path; each piece begins with a segment of no length, so that a single point is a dot.
std::string path_of(const Series& line, const Axis& x, const Axis& y) {
  std::string path;
  bool drawing = false;
  for (std::size_t i = 0; i < line.x.size(); ++i) {
    if (!x.shows(line.x[i]) || !y.shows(line.y[i])) {
      drawing = false;
      continue;
    }
    const std::string point =
        fmt::format("{:.1f},{:.1f}", x.place(line.x[i]) * kPlotWidth, (1 - y.place(line.y[i])) * kPlotHeight);
    if (!drawing) path += "M" + point;
    path += "L" + point;
    drawing = true;
  }
  return path;
}

void draw(std::string& svg, const LineChart& chart, double top) {
  const Axis x = axis_over(chart.series, &Series::x, false), y = axis_over(chart.series, &Series::y, chart.log_y);
  svg += fmt::format("<g transform='translate({},{})'>\n", kLeft, top + kTop);
  svg += fmt::format("<text x='0' y='-40' class='title'>{}</text>\n", escaped(chart.title));
  double legend = 0;
  for (std::size_t i = 0; i < chart.series.size(); ++i) {
    const std::string name = escaped(chart.series[i].name);
    svg += fmt::format("<path d='M{0:.0f},-18h22' class='line' stroke='{1}'/><text x='{2:.0f}' y='-14'>{3}</text>\n",
                       legend, kColours[i % kColours.size()], legend + 28, name);
    legend += 52 + 6.6 * static_cast<double>(chart.series[i].name.size());  // about the width of a letter
  }
  for (const Tick& tick : y.ticks) {
    const double at = (1 - y.place(tick.value)) * kPlotHeight;
    svg += fmt::format("<path d='M0,{0:.1f}h{1}' class='grid'/><text x='-8' y='{2:.1f}' text-anchor='end'>{3}</text>\n",
                       at, kPlotWidth, at + 4, tick.label);
  }
  for (const Tick& tick : x.ticks) {
    const double at = x.place(tick.value) * kPlotWidth;
    svg += fmt::format(
        "<path d='M{0:.1f},{1}v5' class='axis'/><text x='{0:.1f}' y='{2}' text-anchor='middle'>{3}</text>\n", at,
        kPlotHeight, kPlotHeight + 20, tick.label);
  }
  svg += fmt::format("<path d='M0,0V{}H{}' class='axis'/>\n", kPlotHeight, kPlotWidth);
  svg += fmt::format("<text x='{}' y='{}' text-anchor='middle'>{}</text>\n", kPlotWidth / 2, kPlotHeight + 42,
                     escaped(chart.x_label));
  svg += fmt::format("<text transform='translate(-58,{}) rotate(-90)' text-anchor='middle'>{}</text>\n",
                     kPlotHeight / 2, escaped(chart.y_label));
  for (std::size_t i = 0; i < chart.series.size(); ++i)
    svg += fmt::format("<path d='{}' class='line' stroke='{}'/>\n", path_of(chart.series[i], x, y),
                       kColours[i % kColours.size()]);
  svg += fmt::format("</g>\n");
}

}  // namespace

std::string to_svg(std::span<const LineChart> charts) {
  if (charts.empty()) throw std::invalid_argument("to_svg: there is no chart to draw");
  const double height = kHeight * static_cast<double>(charts.size());
  std::string svg = fmt::format(
      R"(<svg xmlns='http://www.w3.org/2000/svg' width='{0}' height='{1}' viewBox='0 0 {0} {1}'>
<style>
text {{ font: 12px sans-serif; fill: #444; }}
.title {{ font-weight: bold; font-size: 15px; fill: #111; }}
.axis {{ fill: none; stroke: #888; }}
.grid {{ fill: none; stroke: #e4e4e4; }}
.line {{ fill: none; stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round; }}
</style>
<rect width='{0}' height='{1}' fill='white'/>
)",
      kWidth, height);
  for (std::size_t i = 0; i < charts.size(); ++i) {
    for (const Series& line : charts[i].series) {
      if (line.x.size() != line.y.size())
        throw std::invalid_argument(
            fmt::format("to_svg: '{}' has {} x and {} y", line.name, line.x.size(), line.y.size()));
    }
    draw(svg, charts[i], kHeight * static_cast<double>(i));
  }
  return svg + "</svg>\n";
}

}  // namespace perrin::trainer
