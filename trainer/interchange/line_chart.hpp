#pragma once

#include <span>
#include <string>
#include <vector>

namespace perrin::trainer {

/// One line of a chart.
struct Series {
  std::string name;
  std::vector<double> x, y;  ///< as many of each
};

/// A chart of lines over a common, linear x axis.
struct LineChart {
  std::string title;
  std::string x_label;
  std::string y_label;
  bool log_y = false;  ///< points at or below 0 are then left out
  std::vector<Series> series;
};

/// Charts below one another as one SVG picture that browsers and editors open. A point that is not finite interrupts
/// its line.
/// @throws std::invalid_argument when a series has more x than y or the reverse, or no chart is given
std::string to_svg(std::span<const LineChart> charts);

}  // namespace perrin::trainer
