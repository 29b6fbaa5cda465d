#pragma once

#include <hdf5.h>

#include <filesystem>
#include <mutex>
#include <string_view>
#include <utility>

namespace perrin::data {

/// Owns one HDF5 identifier; Close is the function of its kind. For data/'s own sources, and for who measures HDF5.
template <herr_t (*Close)(hid_t)>
class Hdf5Handle {
 public:
  explicit Hdf5Handle(hid_t id) noexcept : id_(id) {}
  Hdf5Handle(Hdf5Handle&& other) noexcept : id_(std::exchange(other.id_, H5I_INVALID_HID)) {}
  Hdf5Handle& operator=(Hdf5Handle&& other) noexcept {
    std::swap(id_, other.id_);
    return *this;
  }
  ~Hdf5Handle() {
    if (id_ >= 0) Close(id_);
  }

  hid_t get() const noexcept { return id_; }
  /// Closes and gives the result that the destructor would swallow.
  herr_t close() noexcept { return Close(std::exchange(id_, H5I_INVALID_HID)); }

 private:
  hid_t id_;
};

using Hdf5File = Hdf5Handle<H5Fclose>;
using Hdf5Object = Hdf5Handle<H5Oclose>;
using Hdf5Dataset = Hdf5Handle<H5Dclose>;
using Hdf5Space = Hdf5Handle<H5Sclose>;
using Hdf5Type = Hdf5Handle<H5Tclose>;
using Hdf5Attribute = Hdf5Handle<H5Aclose>;
using Hdf5Properties = Hdf5Handle<H5Pclose>;

/// Every use of HDF5 happens inside one session, one thread at a time: builds of HDF5 for MPI are not thread-safe
/// (four unlocked readers crashed in 3 of 3 runs). The first session makes the library safe to point at files:
/// no plugins, no external links, no file locks. Within a session HDF5 prints nothing; fail() carries its words.
class Hdf5Session {
 public:
  explicit Hdf5Session(std::filesystem::path file);
  Hdf5Session(const Hdf5Session&) = delete;
  Hdf5Session& operator=(const Hdf5Session&) = delete;
  ~Hdf5Session();

  /// Throws a DataError for the session's file: the message, then the innermost line of HDF5's error stack.
  [[noreturn]] void fail(std::string_view message) const;

  /// The identifier itself if it is valid, else fail("cannot <action>").
  hid_t require(hid_t id, std::string_view action) const;

  /// File access by plain system calls, with locks neither taken nor needed.
  Hdf5Properties file_access() const;

 private:
  std::lock_guard<std::mutex> one_at_a_time_;
  std::filesystem::path file_;
  H5E_auto2_t previous_report_ = nullptr;
  void* previous_client_ = nullptr;
};

}  // namespace perrin::data
