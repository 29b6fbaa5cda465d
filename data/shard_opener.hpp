#pragma once

#include <filesystem>
#include <utility>

#include "data/file.hpp"
#include "data/shard_format.hpp"

namespace perrin::data {

/// Examines a shard with HDF5 and closes HDF5 again. Refuses, naming file and reason, whatever is not exactly format
/// version 1: external storage, links of any other kind than hard, virtual, chunked, compact or filtered datasets,
/// other types, implausible shapes, data outside the file, foreign files (Git LFS pointers, web pages, empty files).
/// @param file  the same file, already open; it is what the contents are read from later
std::pair<ShardLayout, ShardAttributes> examine_shard(const File& file);

}  // namespace perrin::data
