#include "launch/versions.hpp"

#include <fmt/format.h>
#include <hdf5.h>
#include <mpi.h>
#include <torch/version.h>

#include <array>
#include <string_view>

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

std::string versions() {
  std::string text = fmt::format("perrin {}\nLibTorch {}\nMPI {}\nHDF5 {}\n", PERRIN_VERSION, TORCH_VERSION,
                                 mpi_version(), hdf5_version());
  if (const std::string device = comm::device_versions(); !device.empty()) text += device + "\n";
  return text;
}

}  // namespace perrin::launch
