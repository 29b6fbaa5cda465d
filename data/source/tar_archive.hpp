#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace perrin::data {

/// Bytes of files, by name without folders.
using NamedBytes = std::map<std::string, std::vector<std::byte>, std::less<>>;

/// Reads members of a tar archive, plain or gzip, into memory; nothing is ever unpacked to disk.
/// @param wanted  asked with the name of every regular file, without folders
/// @param limit   bytes that one member may have, more is an error
/// @throws DataError for a damaged archive, links or names that lead out of it, or a name that is there twice
NamedBytes read_tar_members(const std::filesystem::path& path, const std::function<bool(std::string_view)>& wanted,
                            std::uint64_t limit);

}  // namespace perrin::data
