#pragma once

#include <filesystem>

namespace perrin::launch {

/// Asks, without making anything, whether files could be made in a folder that may not exist yet.
/// @throws RunError naming the folder that stands in the way and the reason
void require_writable_folder(const std::filesystem::path& folder);

/// Makes the folder, with those above it. @throws trainer::RunError where that cannot be
void make_writable_folder(const std::filesystem::path& folder);

}  // namespace perrin::launch
