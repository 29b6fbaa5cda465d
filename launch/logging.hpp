#pragma once

#include <filesystem>
#include <string>

namespace perrin::launch {

/// Sends spdlog to the screen: of rank 0 everything (messages to stdout, warnings and errors to stderr), of the others
/// warnings and errors.
/// @param name  put before warnings and errors, such as "rank 3 (n2)"; empty where there is one rank
void log_to_console(int rank, const std::string& name);

/// From now on also to `folder`/rank-N.log, with times, appended. Makes the folder.
/// @throws RunError if the file cannot be written
void log_to_folder(const std::filesystem::path& folder, int rank);

}  // namespace perrin::launch
