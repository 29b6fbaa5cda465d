#include "launch/versions.hpp"

#include <fmt/format.h>
#include <hdf5.h>
#include <mpi.h>
#include <torch/version.h>

#include <array>
#include <string_view>
#include <vector>

#include "comm/device.hpp"

namespace perrin::launch {
namespace {

std::string mpi_version() {
  std::array<char, MPI_MAX_LIBRARY_VERSION_STRING> text{};
  int length = 0;
  MPI_Get_library_version(text.data(), &length);  // may be called before MPI_Init
  const std::string_view version(text.data(), static_cast<std::size_t>(length));
  return std::string(version.substr(0, version.find_first_of(",\n")));  // what follows is who built it
}

std::string hdf5_version() {
  unsigned major = 0, minor = 0, release = 0;
  H5get_libversion(&major, &minor, &release);
  return fmt::format("{}.{}.{}", major, minor, release);
}

}  // namespace

std::string versions(const std::string& separator) {
  std::vector<std::string> all = {fmt::format("perrin {}", PERRIN_VERSION), fmt::format("LibTorch {}", TORCH_VERSION),
                                  fmt::format("MPI {}", mpi_version()), fmt::format("HDF5 {}", hdf5_version())};
  if (const std::string device = comm::device_versions(); !device.empty()) all.push_back(device);
  return fmt::format("{}", fmt::join(all, separator));
}

}  // namespace perrin::launch
