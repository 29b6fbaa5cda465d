#include "launch/commands/data_rates.hpp"

#include <fmt/format.h>
#include <hdf5.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <barrier>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <thread>
#include <vector>

#include "data/batch_loader.hpp"
#include "data/data_error.hpp"
#include "data/hdf5_session.hpp"
#include "data/mapped_file.hpp"
#include "data/sample_order.hpp"

namespace perrin::launch {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::uint64_t kSeed = 1;

/// Images in front of each shard, and in front of the end.
std::vector<std::uint64_t> shard_starts(const data::Manifest& manifest) {
  std::vector<std::uint64_t> starts = {0};
  for (const data::ShardEntry& shard : manifest.shards) starts.push_back(starts.back() + shard.n);
  return starts;
}

/// Calls read(shard, first, count, pixels) for the part of a range that each shard holds.
template <class Read>
void for_each_part(const std::vector<std::uint64_t>& starts, std::size_t image_bytes, std::uint64_t first,
                   std::uint64_t count, std::span<std::uint8_t> pixels, const Read& read) {
  while (count > 0) {
    const auto shard =
        static_cast<std::size_t>(std::upper_bound(starts.begin(), starts.end(), first) - starts.begin()) - 1;
    const std::uint64_t here = std::min(count, starts[shard + 1] - first);
    read(shard, first - starts[shard], here, pixels.first(here * image_bytes));
    pixels = pixels.subspan(here * image_bytes);
    first += here;
    count -= here;
  }
}

/// /images of every shard, open at once.
class Hdf5Images {
 public:
  explicit Hdf5Images(const data::Dataset& dataset)
      : shape_(dataset.shape()), starts_(shard_starts(dataset.manifest())) {
    for (const data::ShardEntry& shard : dataset.manifest().shards) {
      const std::filesystem::path path = dataset.folder() / shard.path;
      const auto require = [&](hid_t id) {
        if (id < 0) throw data::DataError(path, "HDF5 cannot open it; look at `perrin inspect`");
        return id;
      };
      files_.emplace_back(require(H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT)));
      images_.emplace_back(require(H5Dopen2(files_.back().get(), "images", H5P_DEFAULT)));
      spaces_.emplace_back(require(H5Dget_space(images_.back().get())));
    }
  }

  void read(std::uint64_t first, std::uint64_t count, std::span<std::uint8_t> pixels) const {
    for_each_part(
        starts_, shape_.bytes(), first, count, pixels,
        [&](std::size_t shard, hsize_t index, hsize_t images, std::span<std::uint8_t> part) {
          const std::array<hsize_t, 4> from = {index, 0, 0, 0};
          const std::array<hsize_t, 4> extents = {images, shape_.channels, shape_.height, shape_.width};
          const data::Hdf5Space memory(H5Screate_simple(4, extents.data(), nullptr));
          const hid_t space = spaces_[shard].get();
          if (H5Sselect_hyperslab(space, H5S_SELECT_SET, from.data(), nullptr, extents.data(), nullptr) < 0 ||
              H5Dread(images_[shard].get(), H5T_NATIVE_UINT8, memory.get(), space, H5P_DEFAULT, part.data()) < 0)
            throw std::runtime_error("H5Dread failed");
        });
  }

 private:
  data::ImageShape shape_;
  std::vector<std::uint64_t> starts_;
  std::vector<data::Hdf5File> files_;
  std::vector<data::Hdf5Dataset> images_;
  std::vector<data::Hdf5Space> spaces_;
};

/// The images of every shard as mapped memory, its pages in place.
class MappedImages {
 public:
  explicit MappedImages(const data::Dataset& dataset)
      : image_bytes_(dataset.shape().bytes()), starts_(shard_starts(dataset.manifest())) {
    for (const data::ShardEntry& shard : dataset.manifest().shards) {
      const std::filesystem::path path = dataset.folder() / shard.path;
      files_.emplace_back(data::File::open_for_reading(path));
      images_.push_back(files_.back().bytes().data() + data::ShardReader(path).layout().images_offset);
    }
  }

  void read(std::uint64_t first, std::uint64_t count, std::span<std::uint8_t> pixels) const {
    for_each_part(starts_, image_bytes_, first, count, pixels,
                  [&](std::size_t shard, std::uint64_t index, std::uint64_t, std::span<std::uint8_t> part) {
                    std::memcpy(part.data(), images_[shard] + index * image_bytes_, part.size());
                  });
  }

 private:
  std::size_t image_bytes_;
  std::vector<std::uint64_t> starts_;
  std::vector<data::MappedFile> files_;
  std::vector<const std::byte*> images_;
};

/// Images a second of batches read one after the other.
class Stopwatch {
 public:
  explicit Stopwatch(const RateOptions& options) : batch_(options.batch), until_(begun_ + options.time) {}
  bool goes_on() const { return Clock::now() < until_; }
  double rate(std::uint64_t batches) const {
    const std::chrono::duration<double> elapsed = Clock::now() - begun_;
    return static_cast<double>(batches * batch_) / elapsed.count();
  }

 private:
  std::uint64_t batch_;
  Clock::time_point begun_ = Clock::now();
  std::chrono::time_point<Clock, std::chrono::duration<double>> until_;
};

/// Reads batches 0, 1, ... by threads that take them in turn, each into a buffer of its own.
/// @param read  read(number of the batch, its pixels)
double rate_of_threads(const RateOptions& options, std::size_t image_bytes,
                       const std::function<void(std::uint64_t number, std::span<std::uint8_t> pixels)>& read) {
  std::atomic<std::uint64_t> taken{0};
  std::vector<double> rates(options.threads);
  std::vector<std::exception_ptr> failures(options.threads);
  std::barrier all_are_there(static_cast<std::ptrdiff_t>(options.threads));
  {
    std::vector<std::jthread> threads;
    for (std::size_t i = 0; i < options.threads; ++i) {
      threads.emplace_back([&, i] {
        std::vector<std::uint8_t> pixels(options.batch * image_bytes);
        all_are_there.arrive_and_wait();
        const Stopwatch watch(options);
        std::uint64_t done = 0;
        try {
          for (; watch.goes_on(); ++done) read(taken++, pixels);
        } catch (...) {
          failures[i] = std::current_exception();
        }
        rates[i] = watch.rate(done);
      });
    }
  }
  double sum = 0;
  for (std::size_t i = 0; i < options.threads; ++i) {
    if (failures[i]) std::rethrow_exception(failures[i]);
    sum += rates[i];
  }
  return sum;
}

double loader_rate(const data::Dataset& dataset, const RateOptions& options) {
  const auto slices = [position = std::uint64_t{0}, batch = options.batch]() mutable -> std::optional<data::Slice> {
    position += batch;
    return data::Slice{position - batch, batch};
  };
  data::BatchLoader loader(dataset, data::SampleOrder(dataset.size(), kSeed), slices, {.threads = options.threads});
  data::Batch batch = loader.next();
  const Stopwatch watch(options);
  std::uint64_t done = 0;
  for (; watch.goes_on(); ++done) batch = loader.next(std::move(batch));
  return watch.rate(done);
}

/// Reads whole batches of neighbours.
double range_rate(const ImageReader& reader, const data::Dataset& dataset, const RateOptions& options) {
  const std::uint64_t batches = dataset.size() / options.batch;
  const data::SampleOrder order(batches, kSeed);
  return rate_of_threads(options, dataset.shape().bytes(), [&](std::uint64_t number, std::span<std::uint8_t> pixels) {
    const std::uint64_t batch = options.order == ReadOrder::block ? order.at(number) : number % batches;
    reader(batch * options.batch, options.batch, pixels);
  });
}

}  // namespace

std::string_view name_of(ReadOrder order) {
  switch (order) {
    case ReadOrder::random:
      return "random";
    case ReadOrder::block:
      return "block";
    case ReadOrder::sequential:
      return "sequential";
  }
  throw std::invalid_argument("name_of: no such order");
}

ImageReader hdf5_reader(const data::Dataset& dataset) {
  return [images = std::make_shared<const Hdf5Images>(dataset)](auto first, auto count, auto pixels) {
    images->read(first, count, pixels);
  };
}

ImageReader memory_reader(const data::Dataset& dataset) {
  return [images = std::make_shared<const MappedImages>(dataset)](auto first, auto count, auto pixels) {
    images->read(first, count, pixels);
  };
}

double perrin_rate(const data::Dataset& dataset, const RateOptions& options) {
  if (options.order == ReadOrder::random) return loader_rate(dataset, options);
  return range_rate([&](auto first, auto count, auto pixels) { dataset.read(first, count, pixels); }, dataset, options);
}

double peer_rate(const ImageReader& reader, const data::Dataset& dataset, const RateOptions& options) {
  if (options.order != ReadOrder::random) return range_rate(reader, dataset, options);
  // Known before the clock starts: the peers are not charged for perrin's order.
  std::vector<std::uint64_t> samples(dataset.size() / options.batch * options.batch);
  data::SampleOrder(dataset.size(), kSeed).fill(0, samples);
  const std::size_t image_bytes = dataset.shape().bytes();
  return rate_of_threads(options, image_bytes, [&](std::uint64_t number, std::span<std::uint8_t> pixels) {
    const std::uint64_t first = number * options.batch % samples.size();
    for (std::uint64_t i = 0; i < options.batch; ++i)
      reader(samples[first + i], 1, pixels.subspan(i * image_bytes, image_bytes));
  });
}

}  // namespace perrin::launch
