#include "trainer/interchange/json_config.hpp"

#include <algorithm>
#include <utility>

#include "data/file.hpp"

namespace perrin::trainer {
namespace {

using nlohmann::json;

constexpr std::uint64_t kMaxBytes = std::uint64_t{16} << 20;  // a list of a million betas has these
constexpr int kMaxDepth = 8;                                  // the parser of a hostile file must not exhaust the stack

}  // namespace

JsonConfig::JsonConfig(std::filesystem::path file) : file_(std::move(file)) {
  const auto shallow = [](int depth, json::parse_event_t, json&) {
    if (depth > kMaxDepth) throw std::length_error("nested too deep");
    return true;
  };
  try {
    json_ = json::parse(data::read_text_file(file_, kMaxBytes), shallow);
  } catch (const json::exception&) {
    json_ = nullptr;
  } catch (const std::length_error&) {
    json_ = nullptr;
  }
  if (!json_.is_object()) throw data::DataError(file_, "is no JSON object, as diffusers writes; save the model again");
  const auto defaults = json_.find("_use_default_values");
  if (defaults == json_.end() || !defaults->is_array()) return;
  const json names = *defaults;
  for (const json& name : names) {
    if (name.is_string()) json_.erase(name.get<std::string>());
  }
}

std::int64_t JsonConfig::integer(const char* key, std::int64_t absent, std::int64_t least, std::int64_t most) const {
  const auto found = json_.find(key);
  if (found == json_.end()) return absent;
  if (!found->is_number_integer() || *found < least || *found > most)
    refuse(key, "is " + found->dump() + ", not a whole number from " + std::to_string(least) + " to " +
                    std::to_string(most));
  return found->get<std::int64_t>();
}

void JsonConfig::require(const char* key, const std::vector<json>& allowed) const {
  const auto found = json_.find(key);
  if (found == json_.end() || std::find(allowed.begin(), allowed.end(), *found) != allowed.end()) return;
  std::string list;
  for (const json& value : allowed) list += (list.empty() ? "" : " or ") + value.dump();
  refuse(key, "is " + found->dump() + ", and perrin has no such model; it must be " + list);
}

void JsonConfig::require_known(const std::vector<std::string_view>& keys) const {
  for (const auto& [key, value] : json_.items()) {
    if (!key.starts_with('_') && !value.is_null() && std::find(keys.begin(), keys.end(), key) == keys.end())
      refuse(key, "is " + value.dump() + ", and perrin does not know this key; a model without it can be read");
  }
}

void JsonConfig::refuse(const std::string& key, const std::string& reason) const {
  throw data::DataError(file_, "'" + key + "' " + reason);
}

}  // namespace perrin::trainer
