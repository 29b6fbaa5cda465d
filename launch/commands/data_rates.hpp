#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>

#include "data/dataset.hpp"

namespace perrin::launch {

/// In which order batches are read.
enum class ReadOrder {
  random,     ///< single images, in the order of training
  block,      ///< a batch of neighbours at a time, the batches in random order
  sequential  ///< as evaluation reads
};

std::string_view name_of(ReadOrder order);

/// What is read, and for how long.
struct RateOptions {
  ReadOrder order = ReadOrder::random;
  std::uint64_t batch = 256;  ///< images; no more than the dataset has
  std::size_t threads = 1;
  std::chrono::duration<double> time{0.3};
};

/// Copies images [first, first + count) of a dataset, uint8 [count, C, H, W].
using ImageReader = std::function<void(std::uint64_t first, std::uint64_t count, std::span<std::uint8_t> pixels)>;

/// Plain HDF5, one H5Dread a call with the library's defaults; for one thread. @throws data::DataError
ImageReader hdf5_reader(const data::Dataset& dataset);
/// memcpy from the mapped files, unverified: what the memory of this machine gives. For any number of threads.
ImageReader memory_reader(const data::Dataset& dataset);

/// Images a second into batches by perrin: the loader in random order, Dataset::read() in the others.
double perrin_rate(const data::Dataset& dataset, const RateOptions& options);
/// Images a second by a reader of those above, into batches, every image by a call of its own in random order.
double peer_rate(const ImageReader& reader, const data::Dataset& dataset, const RateOptions& options);

}  // namespace perrin::launch
