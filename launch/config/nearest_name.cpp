#include "launch/config/nearest_name.hpp"

#include <algorithm>
#include <utility>

namespace perrin::launch {
namespace {

std::string_view leaf_of(std::string_view name) {
  const auto dot = name.rfind('.');
  return dot == std::string_view::npos ? name : name.substr(dot + 1);
}

std::string initials_of(std::string_view words) {
  std::string initials;
  bool begins = true;
  for (const char c : words) {
    if (begins) initials += c;
    begins = c == '_' || c == '-';
  }
  return initials;
}

}  // namespace

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> before_last(b.size() + 1), last(b.size() + 1), row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) last[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1)});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        row[j] = std::min(row[j], before_last[j - 2] + 1);
      }
    }
    std::swap(before_last, last);
    std::swap(last, row);
  }
  return last[b.size()];
}

std::string nearest_name(std::string_view name, const std::vector<std::string>& candidates) {
  const std::string_view leaf = leaf_of(name);
  // A third of the letters may be wrong; with more, the suggestion is a guess that misleads.
  std::size_t best = std::max<std::size_t>(2, leaf.size() / 3) + 1;
  std::string nearest;
  for (const std::string& candidate : candidates) {
    const std::string_view candidate_leaf = leaf_of(candidate);
    std::size_t distance = edit_distance(name, candidate);
    if (!leaf.empty() && leaf.size() > 1) {  // in another section, or in none: one mistake more
      distance = std::min(distance, edit_distance(leaf, candidate_leaf) + 1);
    }
    if (candidate_leaf.size() > 1 && initials_of(leaf) == candidate_leaf) distance = std::min<std::size_t>(distance, 1);
    if (distance < best) {
      best = distance;
      nearest = candidate;
    }
  }
  return nearest;
}

}  // namespace perrin::launch
