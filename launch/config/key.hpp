#pragma once

#include <functional>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "launch/config/value.hpp"
#include "trainer/config.hpp"

namespace perrin::launch {

enum class KeyType { boolean, integer, number, text, choice, integers, numbers };

/// The numbers a key accepts; of a list, each of its entries.
struct Range {
  double least = -std::numeric_limits<double>::infinity();
  double most = std::numeric_limits<double>::infinity();
  bool above_least = false;  ///< `least` itself is refused
  bool below_most = false;   ///< `most` itself is refused

  bool contains(double value) const {  // a NaN is contained nowhere
    return (above_least ? value > least : value >= least) && (below_most ? value < most : value <= most);
  }
};

/// "at least 1", "above 0 and below 1", ...; empty where every number goes.
std::string to_string(const Range& range);

/// One key of the configuration: how it is written, what it accepts, what it means, and where its value lives.
struct Key {
  std::string name;  ///< "section.key"
  KeyType type;
  std::string documentation;          ///< one line, units included
  Range range;                        ///< of integer, number and their lists
  bool may_be_empty = true;           ///< of text and lists
  std::vector<std::string> choices;   ///< of choice
  bool may_change_on_resume = false;  ///< whether an existing run goes on with another value
  std::function<Value(const trainer::Config&)> get;
  std::function<void(trainer::Config&, const Value&)> set;

  std::string_view section() const { return std::string_view(name).substr(0, name.find('.')); }
  std::string_view leaf() const { return std::string_view(name).substr(name.find('.') + 1); }
};

/// "an integer", "a list of numbers", ...: what an error message says the key wants.
std::string_view describe(KeyType type);

}  // namespace perrin::launch
