#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "data/data_error.hpp"

namespace perrin::trainer {

/// A configuration file of diffusers: one JSON object. Errors name the file and the key.
class JsonConfig {
 public:
  /// Keys that `_use_default_values` lists are taken for absent, as diffusers does.
  /// @throws data::DataError for a file that is missing, larger than 16 MiB, or no JSON object
  explicit JsonConfig(std::filesystem::path file);

  /// The value of a key, or the default where it is absent. @throws data::DataError for a value of another type
  template <class T>
  T get(const char* key, const T& absent) const {
    const auto found = json_.find(key);
    if (found == json_.end()) return absent;
    try {
      return found->template get<T>();
    } catch (const nlohmann::json::exception&) {
      refuse(key, "is " + found->dump() + ", which is of the wrong type");
    }
  }
  /// Whether a key is there and not null.
  bool has(const char* key) const { return json_.contains(key) && !json_.at(key).is_null(); }
  /// An integer in [least, most]. @throws data::DataError otherwise
  std::int64_t integer(const char* key, std::int64_t absent, std::int64_t least, std::int64_t most) const;
  /// Refuses a value other than those that perrin's network or process has; the first one is diffusers' default.
  void require(const char* key, const std::vector<nlohmann::json>& allowed) const;
  /// Refuses keys that are neither known nor null.
  void require_known(const std::vector<std::string_view>& keys) const;
  /// @throws data::DataError "<file>: '<key>' <reason>"
  [[noreturn]] void refuse(const std::string& key, const std::string& reason) const;

 private:
  std::filesystem::path file_;
  nlohmann::json json_;
};

}  // namespace perrin::trainer
