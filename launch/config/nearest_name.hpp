#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace perrin::launch {

/// Insertions, deletions, replacements and swaps of neighbours that turn `a` into `b` (optimal string alignment).
std::size_t edit_distance(std::string_view a, std::string_view b);

/// The candidate nearest to a mistyped `name`, or empty where none is near. Names with a section ("train.lr") are also
/// compared without it, and long forms with their initials: learning_rate is near optimizer.lr.
std::string nearest_name(std::string_view name, const std::vector<std::string>& candidates);

}  // namespace perrin::launch
