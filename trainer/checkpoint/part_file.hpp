#pragma once

#include <cstddef>
#include <string>

namespace perrin::trainer {

/// "weights.safetensors", or of several parts, as the field names them, "weights-00001-of-00002.safetensors".
std::string part_file(const std::string& buffer, std::size_t part, std::size_t parts);
/// The buffer that such a file holds, or a part of it.
std::string buffer_of(const std::string& file);

}  // namespace perrin::trainer
