#include "launch/commands/conversion.hpp"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "data/source/equal_pictures.hpp"
#include "launch/team.hpp"
#include "launch/usage_error.hpp"
#include "launch/work_progress.hpp"
#include "launch/world_options.hpp"
#include "trainer/same_on_all_ranks.hpp"

namespace perrin::launch {
namespace {

const std::map<std::string, data::Layout> kLayouts{{"nchw", data::Layout::nchw}, {"nhwc", data::Layout::nhwc}};

/// "index reason", ended by a zero byte, of each.
std::string as_text(const std::vector<data::UnfitPicture>& pictures) {
  std::string text;
  for (const data::UnfitPicture& picture : pictures) text += fmt::format("{} {}", picture.index, picture.reason) + '\0';
  return text;
}

void append_from_text(std::vector<data::UnfitPicture>& pictures, const std::string& text) {
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = text.find('\0', at);
    data::UnfitPicture picture;
    const char* space = std::from_chars(&text[at], &text[end], picture.index).ptr;
    picture.reason.assign(space + 1, text.data() + end);
    pictures.push_back(std::move(picture));
    at = end + 1;
  }
}

/// Names the first few, counts them all.
void report_skipped(const std::vector<data::UnfitPicture>& skipped, std::uint64_t images) {
  constexpr std::size_t kNamed = 10;
  for (std::size_t i = 0; i < std::min(kNamed, skipped.size()); ++i) spdlog::warn("skipped: {}", skipped[i].reason);
  if (!skipped.empty()) spdlog::warn("{} of {} images were skipped", skipped.size(), images);
}

/// Every rank decodes a part of the images, and learns which of all of them fail.
std::vector<data::UnfitPicture> unfit_on_all_ranks(const data::PictureSource& source, const data::Transform& transform,
                                                   Team& team) {
  WorkProgress progress({"images checked"});
  std::vector<data::UnfitPicture> mine, unfit;
  team.share([&](const Team::Report& report) { mine = data::find_unfit(source, transform, team.part(), report); },
             [&](std::uint64_t done) { progress.show(done, source.size()); });
  for (const std::string& text : team.gather(as_text(mine))) append_from_text(unfit, text);
  std::sort(unfit.begin(), unfit.end(), [](const auto& a, const auto& b) { return a.index < b.index; });
  if (team.is_root()) report_skipped(unfit, source.size());
  return unfit;
}

data::EqualPictures open_images(const Conversion& conversion, const data::SourceOptions& options,
                                const data::Transform& transform, Team& team) {
  std::shared_ptr<const data::PictureSource> pictures;
  team.run([&] { pictures = data::open_source(conversion.input, options); });
  std::vector<data::UnfitPicture> unfit;
  if (conversion.skip_unfit) unfit = unfit_on_all_ranks(*pictures, transform, team);
  std::optional<data::EqualPictures> images;
  team.run([&] { images.emplace(pictures, transform, unfit); });
  return std::move(*images);
}

/// Rank 0 alone reads everything for the digest, holds the lock and publishes; each rank writes shards of its own.
std::optional<data::Manifest> write_shards(data::Preparation& preparation, Team& team) {
  const bool was_there = team.from_root([&] { return preparation.begin() ? "there" : ""; }) == "there";
  if (was_there) return std::nullopt;
  if (preparation.num_shards() < team.part().count) {
    spdlog::info("{} of {} ranks have a shard to write; smaller ones (--shard-images) give work to all",
                 preparation.num_shards(), team.part().count);
  }
  WorkProgress progress({"images"});
  team.share([&](const Team::Report& report) { preparation.write(team.part(), report); },
             [&](std::uint64_t done) { progress.show(done, preparation.wanted().n); });
  data::Manifest manifest;
  team.run([&] {
    if (team.is_root()) manifest = preparation.publish();
  });
  return manifest;
}

void write(const data::ImageSource& source, const data::PrepareOptions& options, comm::World& world, Team& team) {
  const std::string digest = team.from_root([&] { return source.digest(); });
  std::optional<data::Preparation> preparation;
  team.run([&] { preparation.emplace(source, options, digest); });
  trainer::require_same_on_all_ranks(world.control(), data::to_json(preparation->wanted()), "the images",
                                     "every rank must see the same files");
  const std::optional<data::Manifest> written = write_shards(*preparation, team);
  if (!team.is_root()) return;
  const data::Manifest manifest = written ? *written : data::read_manifest(options.output);
  spdlog::info("{}: {} images of {}x{}x{} in {} shard{}, fingerprint {}{}", options.output.string(), manifest.n,
               manifest.shape.channels, manifest.shape.height, manifest.shape.width, manifest.shards.size(),
               manifest.shards.size() == 1 ? "" : "s", data::fingerprint(manifest).substr(0, 12),
               written ? "" : " (was there already)");
}

data::Transform transform_of(const data::TransformOptions& options) {
  try {
    return data::Transform(options);
  } catch (const std::invalid_argument& contradiction) {
    throw UsageError(contradiction.what());
  }
}

}  // namespace

void add_array_options(CLI::App& app, data::SourceOptions& source) {
  app.add_option("--labels,--labels-file", source.labels,
                 "File of the labels of an IDX file, plain or .gz, or of an HDF5 file without labels (PCam)")
      ->type_name("FILE");
  app.add_option("--images-key", source.arrays.images_key, "Name of the array of images, if it is unusual")
      ->type_name("NAME");
  app.add_option("--labels-key", source.arrays.labels_key, "Name of the array of labels, if it is unusual")
      ->type_name("NAME");
  app.add_option("--layout", source.arrays.layout, "Axes of the array of images, if they are not plain")
      ->transform(CLI::CheckedTransformer(kLayouts))
      ->type_name("nchw|nhwc");
  app.add_option("--class-names", source.class_names, "Names of label 0, 1, ..., separated by commas")
      ->delimiter(',')
      ->type_name("A,B,...");
}

void add_storage_options(CLI::App& app, data::PrepareOptions& options) {
  app.add_option("--shard-images", options.shard_images, "Images in a shard; 0: as many as 1 GiB holds")
      ->capture_default_str();
  auto* seed =
      app.add_option("--seed", options.shuffle_seed, "Of the order in which images are stored")->capture_default_str();
  app.add_flag("--keep-order", options.keep_order, "Store images in the order of the source, not shuffled")
      ->excludes(seed);
}

ExitCode convert(const Conversion& conversion, Session& session) {
  const data::Transform transform = transform_of(conversion.transform);
  const HeldOut& held_out = conversion.held_out;
  if (held_out.test_set && conversion.source.subset)
    throw UsageError("--held-out test takes both sets; leave --subset out");
  comm::World& world =
      session.start_world(world_options(trainer::DistributedConfig(), /*require_all_slurm_tasks=*/false));
  Team team(world);

  data::PrepareOptions train = conversion.options, test = conversion.options;
  train.output /= "train";
  test.output /= "heldout";
  if (held_out.test_set) {
    data::SourceOptions options = conversion.source;
    options.subset = data::Subset::test;
    const data::EqualPictures test_images = open_images(conversion, options, transform, team);
    options.subset = data::Subset::train;
    write(open_images(conversion, options, transform, team), train, world, team);
    write(test_images, test, world, team);
    return ExitCode::ok;
  }
  const data::EqualPictures images = open_images(conversion, conversion.source, transform, team);
  if (held_out.drawn == 0) {
    write(images, conversion.options, world, team);
    return ExitCode::ok;
  }
  if (held_out.drawn >= images.size()) {
    throw UsageError(
        fmt::format("--held-out {} leaves nothing of {} images to train on", held_out.drawn, images.size()));
  }
  const auto [drawn, others] = images.hold_out(held_out.drawn, conversion.options.shuffle_seed);
  write(others, train, world, team);
  write(drawn, test, world, team);
  return ExitCode::ok;
}

}  // namespace perrin::launch
