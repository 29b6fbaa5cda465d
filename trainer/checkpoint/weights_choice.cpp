#include "trainer/checkpoint/weights_choice.hpp"

#include <fmt/format.h>

#include <charconv>
#include <optional>
#include <stdexcept>
#include <string_view>
#include <vector>

#include "trainer/optimize/power_ema.hpp"

namespace perrin::trainer {
namespace {

/// The number that follows `prefix` in `text`; nullopt unless both are all of it.
template <class Number>
std::optional<Number> number_after(std::string_view prefix, std::string_view text) {
  if (!text.starts_with(prefix)) return std::nullopt;
  text.remove_prefix(prefix.size());
  Number number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return number;
}

}  // namespace

WeightsChoice parse_weights_choice(const std::string& text) {
  if (text == "raw") return RawWeights{};
  if (text == "ema") return StoredAverage{0};
  if (const auto index = number_after<std::size_t>("ema-", text)) return StoredAverage{*index};
  if (const auto sigma_rel = number_after<double>("posthoc-", text)) {
    power_ema_gamma(*sigma_rel);  // refuses a width that no average has
    return PostHocAverage{*sigma_rel};
  }
  throw std::invalid_argument(
      fmt::format("'{}' is none of ema (the first of ema.decays), raw, ema-N (an average as `perrin inspect` numbers "
                  "them) and posthoc-WIDTH (such as posthoc-0.13)",
                  text));
}

std::string name_of(const WeightsChoice& choice, const CheckpointOrigin& origin) {
  if (const auto* post_hoc = std::get_if<PostHocAverage>(&choice))
    return fmt::format("post-hoc EMA {}", post_hoc->sigma_rel);
  const auto* average = std::get_if<StoredAverage>(&choice);
  if (average == nullptr) return "raw";
  const std::vector<std::string> names = origin.averages();
  if (average->index < names.size()) return names[average->index];
  std::string stored = "raw";
  for (std::size_t i = 0; i < names.size(); ++i) stored += fmt::format(", ema-{} ({})", i, names[i]);
  throw std::invalid_argument(fmt::format("has no ema-{}; it holds {}", average->index, stored));
}

}  // namespace perrin::trainer
