#pragma once

#include <cstddef>
#include <span>

namespace perrin::data {

/// memcpy from a mapped file. A page that the file no longer has (it was cut short, its device or server failed) raises
/// SIGBUS, which would end the process; here it ends the copy.
/// Installs a handler of SIGBUS at the first use; one that comes from elsewhere goes on to the handler before it.
/// @param from  as many bytes as `into`
/// @return whether all bytes were copied
bool guarded_copy(std::span<std::byte> into, const std::byte* from) noexcept;

}  // namespace perrin::data
