#include "trainer/checkpoint/checkpoint_name.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <string>
#include <string_view>
#include <system_error>

#include "trainer/checkpoint/checkpoint_error.hpp"

namespace perrin::trainer {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kStep = "step-", kIncarnation = "-i", kUnfinished = ".tmp";

/// Takes a number off the front; nullopt, or nothing taken, if there is none.
std::optional<std::int64_t> take_number(std::string_view& text) {
  std::int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || number < 0) return std::nullopt;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return number;
}

}  // namespace

std::optional<CheckpointName> parse_checkpoint_name(const fs::path& folder) {
  const std::string name = folder.filename().string();
  std::string_view rest = name;
  if (!rest.starts_with(kStep)) return std::nullopt;
  rest.remove_prefix(kStep.size());
  const auto step = take_number(rest);
  if (!step) return std::nullopt;
  if (rest.empty()) return CheckpointName{0, *step};
  if (!rest.starts_with(kIncarnation)) return std::nullopt;
  rest.remove_prefix(kIncarnation.size());
  const auto incarnation = take_number(rest);
  if (!incarnation || *incarnation > kMostIncarnations || !rest.empty()) return std::nullopt;
  return CheckpointName{*incarnation, *step};
}

fs::path checkpoint_path(const fs::path& folder, const CheckpointName& name) {
  const std::string step = fmt::format("{}{:08}", kStep, name.step);
  return folder / (name.incarnation == 0 ? step : fmt::format("{}{}{:04}", step, kIncarnation, name.incarnation));
}

std::vector<fs::path> list_checkpoints(const fs::path& checkpoints) {
  std::vector<fs::path> found;
  if (!fs::exists(checkpoints)) return found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(checkpoints, error))
    if (entry.is_directory() && parse_checkpoint_name(entry.path())) found.push_back(entry.path());
  // Not to be taken for an empty folder: the run would start anew.
  if (error) throw CheckpointError(checkpoints, "cannot be read: " + error.message());
  std::sort(found.begin(), found.end(),
            [](const fs::path& a, const fs::path& b) { return parse_checkpoint_name(a) > parse_checkpoint_name(b); });
  return found;
}

fs::path unfinished(const fs::path& folder) { return folder.string() + std::string(kUnfinished); }

void remove_unfinished(const fs::path& parent) noexcept {
  std::error_code ignored;
  std::vector<fs::path> found;
  for (fs::directory_iterator entry(parent, ignored), end; !ignored && entry != end; entry.increment(ignored))
    if (const fs::path& path = entry->path(); path.extension() == kUnfinished || path.stem().extension() == kUnfinished)
      found.push_back(path);
  for (const fs::path& folder : found) fs::remove_all(folder, ignored);
}

}  // namespace perrin::trainer
