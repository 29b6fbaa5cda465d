#pragma once

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "launch/commands/median.hpp"

namespace perrin::launch {

/// One figure over the rounds of a measurement.
struct Spread {
  double median = 0, lowest = 0, highest = 0;

  /// @param values  not empty
  explicit Spread(const std::vector<double>& values)
      : median(launch::median(values)),
        lowest(*std::min_element(values.begin(), values.end())),
        highest(*std::max_element(values.begin(), values.end())) {}

  /// As `name`, `name`_lowest and `name`_highest.
  void write(nlohmann::ordered_json& report, const std::string& name) const {
    report[name] = median;
    report[name + "_lowest"] = lowest;
    report[name + "_highest"] = highest;
  }
};

}  // namespace perrin::launch
