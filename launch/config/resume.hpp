#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "launch/config/config_error.hpp"
#include "trainer/config.hpp"

namespace perrin::launch {

/// A key that has another value than the run was started with; values as TOML writes them.
struct KeyChange {
  std::string name;
  std::string before;
  std::string after;
};

/// The changed keys that an existing run cannot take over: it would no longer be the same run.
std::vector<KeyChange> changes_refused_on_resume(const trainer::Config& before, const trainer::Config& after);

/// Refuses such changes, naming each, its two values, and the keys that may change.
/// @param stored  the file that holds the run's configuration, for the message
/// @throws ConfigError
void refuse_changes_on_resume(const trainer::Config& before, const trainer::Config& after,
                              const std::filesystem::path& stored);

}  // namespace perrin::launch
