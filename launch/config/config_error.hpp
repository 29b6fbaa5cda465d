#pragma once

#include <stdexcept>
#include <string>

namespace perrin::launch {

/// What is wrong with a configuration: the file or the command line says something that cannot be done.
class ConfigError : public std::runtime_error {
 public:
  /// @param place  where it stands: "FILE:LINE", "FILE" or "command line"
  /// @param key    "section.key", or empty where no key is concerned
  /// @param message what is wrong and how to fix it, without the place
  ConfigError(const std::string& place, std::string key, const std::string& message)
      : std::runtime_error(place + ": " + message), place_(place), key_(std::move(key)) {}

  const std::string& place() const noexcept { return place_; }
  const std::string& key() const noexcept { return key_; }

 private:
  std::string place_;
  std::string key_;
};

}  // namespace perrin::launch
