#include "trainer/evaluate/sample_features.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <utility>
#include <vector>

#include "data/sha256.hpp"
#include "trainer/evaluate/batch_journal.hpp"
#include "trainer/evaluate/batches_in_turn.hpp"
#include "trainer/evaluate/tile_sampler.hpp"
#include "trainer/images.hpp"
#include "trainer/telemetry/progress_line.hpp"

namespace perrin::trainer {
namespace {

using Clock = std::chrono::steady_clock;

/// A batch as bytes: images, features, class probabilities.
class RecordLayout {
 public:
  RecordLayout(std::int64_t batch_size, const data::ImageShape& shape, const FeatureExtractor& extractor)
      : batch_size_(batch_size), image_{shape.channels, shape.height, shape.width} {
    const ImageFeatures probe = extractor.extract(at::zeros({1, image_[0], image_[1], image_[2]}, at::kByte));
    features_ = probe.features.size(1);
    classes_ = probe.probabilities.defined() ? probe.probabilities.size(1) : 0;
  }

  std::size_t bytes() const { return image_bytes() + float_bytes(features_) + float_bytes(classes_); }

  /// The first rows of a record; what the last batch has no image for stays as it is.
  void write(const at::Tensor& images, const ImageFeatures& of, std::span<std::uint8_t> record) const {
    std::memcpy(record.data(), images.const_data_ptr(), images.nbytes());
    std::memcpy(record.data() + image_bytes(), of.features.const_data_ptr(), of.features.nbytes());
    if (classes_ > 0)
      std::memcpy(record.data() + image_bytes() + float_bytes(features_), of.probabilities.const_data_ptr(),
                  of.probabilities.nbytes());
  }

  /// Copies of the first `count` rows.
  at::Tensor images(std::span<const std::uint8_t> record, std::int64_t count) const {
    at::Tensor rows = at::empty({batch_size_, image_[0], image_[1], image_[2]}, at::kByte);
    std::memcpy(rows.mutable_data_ptr(), record.data(), image_bytes());
    return rows.narrow(0, 0, count);
  }
  at::Tensor features(std::span<const std::uint8_t> record, std::int64_t count) const {
    return floats(record.subspan(image_bytes()), features_, count);
  }
  at::Tensor probabilities(std::span<const std::uint8_t> record, std::int64_t count) const {
    return floats(record.subspan(image_bytes() + float_bytes(features_)), classes_, count);
  }
  bool has_classes() const { return classes_ > 0; }

 private:
  std::size_t image_bytes() const { return static_cast<std::size_t>(batch_size_ * image_[0] * image_[1] * image_[2]); }
  std::size_t float_bytes(std::int64_t columns) const {
    return static_cast<std::size_t>(batch_size_ * columns) * sizeof(float);
  }
  at::Tensor floats(std::span<const std::uint8_t> bytes, std::int64_t columns, std::int64_t count) const {
    at::Tensor rows = at::empty({batch_size_, columns}, at::kFloat);
    std::memcpy(rows.mutable_data_ptr(), bytes.data(), float_bytes(columns));
    return rows.narrow(0, 0, count);
  }

  std::int64_t batch_size_;
  std::array<std::int64_t, 3> image_;
  std::int64_t features_ = 0, classes_ = 0;
};

/// Samples as they arrive on rank 0.
class Collected {
 public:
  Collected(const RecordLayout& layout, const SampleRequest& request, std::int64_t batch_size)
      : layout_(layout), request_(request), batch_size_(batch_size) {}

  void add(std::int64_t batch, std::span<const std::uint8_t> record) {
    const std::int64_t count = std::min(batch_size_, request_.samples - batch * batch_size_);
    const at::Tensor images = layout_.images(record, count);
    hash_.update({static_cast<const std::byte*>(images.const_data_ptr()), images.nbytes()});
    if (request_.keep_images) images_.push_back(images);
    features_.push_back(layout_.features(record, count));
    if (layout_.has_classes()) probabilities_.push_back(layout_.probabilities(record, count));
  }

  SampleFeatures finish(std::int64_t resumed) {
    SampleFeatures all{.sha256 = hash_.hex(), .resumed = resumed};
    all.features = at::cat(features_);
    if (!probabilities_.empty()) all.probabilities = at::cat(probabilities_);
    if (!images_.empty()) all.images = at::cat(images_);
    return all;
  }

 private:
  const RecordLayout& layout_;
  const SampleRequest& request_;
  std::int64_t batch_size_;
  data::Sha256 hash_;
  std::vector<at::Tensor> features_, probabilities_, images_;
};

/// @return nullopt where the disk refuses it: only an interruption would miss it
std::optional<BatchJournal> open_journal(const std::filesystem::path& path, const std::string& key, std::size_t bytes,
                                         const Narrator& narrate) {
  try {
    return BatchJournal(path, key, bytes);
  } catch (const std::exception& error) {
    if (narrate) narrate(fmt::format("samples: an interruption would lose them: {}", error.what()));
    return std::nullopt;
  }
}

/// As open_journal.
void append(std::optional<BatchJournal>& journal, std::span<const std::uint8_t> record, const Narrator& narrate) {
  if (!journal) return;
  try {
    journal->append(record);
  } catch (const std::exception& error) {
    if (narrate) narrate(fmt::format("samples: an interruption would lose them from here on: {}", error.what()));
    journal.reset();
  }
}

/// Forward passes that an image costs.
std::int64_t passes_of(const Config& config) {
  const std::int64_t steps = config.sample.steps == 0 ? config.diffusion.timesteps : config.sample.steps;
  return (config.sample.sampler == Sampler::heun ? 2 * steps - 1 : steps) * (config.sample.guidance == 1 ? 1 : 2);
}

/// Says what is left, from the time that the batches took so far.
class Progress {
 public:
  Progress(const Narrator& narrate, std::int64_t batches) : narrate_(narrate), left_(batches) {}

  void advance() {
    ++done_;
    --left_;
    const auto now = Clock::now();
    if (!narrate_ || left_ == 0 || now < next_) return;
    next_ = now + std::chrono::seconds(10);
    const double seconds = std::chrono::duration<double>(now - begun_).count() / static_cast<double>(done_);
    narrate_(fmt::format("samples: {:.1f} %, {} left",
                         100.0 * static_cast<double>(done_) / static_cast<double>(done_ + left_),
                         format_duration(seconds * static_cast<double>(left_))));
  }

 private:
  const Narrator& narrate_;
  std::int64_t done_ = 0, left_;
  const Clock::time_point begun_ = Clock::now();
  Clock::time_point next_ = begun_;  // a first estimate with the first batches
};

}  // namespace

std::optional<SampleFeatures> sample_features(const UNet& model, const Config& config, const data::ImageShape& shape,
                                              const FeatureExtractor& extractor, const SampleRequest& request,
                                              comm::Communicator& control, at::Device device, const Narrator& narrate,
                                              const Interrupt& interrupt) {
  if (request.samples < 1) throw std::invalid_argument("samples are drawn one at least");
  const at::NoGradGuard no_grad;
  const std::int64_t size = config.sample.batch_size, batches = (request.samples + size - 1) / size;
  const RecordLayout layout(size, shape, extractor);

  const bool root = control.rank() == 0;
  const Narrator heard = root ? narrate : Narrator{};
  const ExtractorIdentity& identity = extractor.identity();
  std::optional<BatchJournal> journal;
  if (root)
    journal = open_journal(request.journal,
                           fmt::format("{}\nextractor {} {}", request.key, identity.sha256, identity.preprocessing),
                           layout.bytes(), heard);
  const std::int64_t done =
      control.all_reduce_value(journal ? std::min(journal->size(), batches) : 0, comm::ReduceOp::max);
  if (heard)
    heard(fmt::format("samples: {} images in {} batches of {}, {} forward passes each, on {} rank{}{}", request.samples,
                      batches, size, passes_of(config), control.size(), control.size() == 1 ? "" : "s",
                      done == 0 ? "" : fmt::format("; {} batches are done already", done)));
  Collected collected(layout, request, size);
  for (std::int64_t batch = 0; journal && batch < done; ++batch) collected.add(batch, journal->read(batch));

  TileSampler sampler(model, config, shape, device);
  const auto make = [&](std::int64_t batch, std::span<std::uint8_t> record) {
    std::vector<at::Tensor> images, features, probabilities;
    const std::int64_t count = std::min(size, request.samples - batch * size);
    for (const auto& [tile, drawn] : sampler.draw(batch * size, count)) {
      const ImageFeatures seen = extractor.extract(drawn);
      images.push_back(tile.wanted_of(drawn));
      features.push_back(tile.wanted_of(seen.features));
      if (layout.has_classes()) probabilities.push_back(tile.wanted_of(seen.probabilities));
    }
    layout.write(
        at::cat(images),
        {.features = at::cat(features), .probabilities = layout.has_classes() ? at::cat(probabilities) : at::Tensor()},
        record);
  };
  Progress progress(heard, batches - done);
  const auto take = [&](std::int64_t batch, std::span<const std::uint8_t> record) {
    append(journal, record, heard);
    collected.add(batch, record);
    progress.advance();
  };
  if (!batches_in_turn(control, done, batches, layout.bytes(), make, take, interrupt)) return std::nullopt;
  if (!root) return SampleFeatures{};
  return collected.finish(std::min(done * size, request.samples));
}

}  // namespace perrin::trainer
