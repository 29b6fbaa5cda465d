#include "data/hdf5_session.hpp"

#include <fmt/format.h>

#include <cstdlib>
#include <string>

#include "data/data_error.hpp"

namespace perrin::data {
namespace {

/// HDF5's state is one per process, and so is the lock that guards it.
std::mutex& library_mutex() {
  static std::mutex mutex;
  return mutex;
}

void prepare_library_once() {
  static const bool prepared = [] {
    // The variable overrides what the program asks for, and HDF5 reads it once, at its start: with TRUE every open
    // fails on a file system without locks (NFS: errno 37, DVS: 524). Shards never change, so nothing needs to be
    // locked.
    ::unsetenv("HDF5_USE_FILE_LOCKING");
    H5open();
    H5PLset_loading_state(0);
    H5Lunregister(H5L_TYPE_EXTERNAL);
    return true;
  }();
  static_cast<void>(prepared);
}

herr_t take_innermost(unsigned depth, const H5E_error2_t* error, void* text) {
  if (depth == 0) *static_cast<std::string*>(text) = fmt::format("{}: {}", error->func_name, error->desc);
  return 0;
}

}  // namespace

Hdf5Session::Hdf5Session(std::filesystem::path file) : one_at_a_time_(library_mutex()), file_(std::move(file)) {
  prepare_library_once();
  H5Eget_auto2(H5E_DEFAULT, &previous_report_, &previous_client_);
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  H5Eclear2(H5E_DEFAULT);
}

Hdf5Session::~Hdf5Session() { H5Eset_auto2(H5E_DEFAULT, previous_report_, previous_client_); }

void Hdf5Session::fail(std::string_view message) const {
  std::string innermost;
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, take_innermost, &innermost);
  throw DataError(file_, innermost.empty() ? std::string(message) : fmt::format("{} (HDF5: {})", message, innermost));
}

hid_t Hdf5Session::require(hid_t id, std::string_view action) const {
  if (id < 0) fail(fmt::format("cannot {}", action));
  return id;
}

Hdf5Properties Hdf5Session::file_access() const {
  Hdf5Properties access(require(H5Pcreate(H5P_FILE_ACCESS), "make HDF5 properties"));
  require(H5Pset_fapl_sec2(access.get()), "choose HDF5's plain file driver");
  require(H5Pset_file_locking(access.get(), /*use_file_locking=*/0, /*ignore_when_disabled=*/1),
          "switch HDF5's file locks off");
  require(H5Pset_fclose_degree(access.get(), H5F_CLOSE_STRONG), "choose how HDF5 closes files");
  return access;
}

}  // namespace perrin::data
