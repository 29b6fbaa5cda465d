#include "data/staging_folder.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "data/data_error.hpp"
#include "data/file.hpp"
#include "data/staged_shard.hpp"

namespace perrin::data {
namespace {

namespace fs = std::filesystem;

fs::path sibling(const fs::path& output, std::string_view suffix) {
  return output.parent_path() / fmt::format(".{}{}", output.filename().string(), suffix);
}

DirectoryLock lock_beside(const fs::path& output) {
  std::error_code error;
  fs::create_directories(output.parent_path(), error);
  if (error) throw DataError(output.parent_path(), fmt::format("cannot create: {}", describe_errno(error.value())));
  return DirectoryLock(output.parent_path(), sibling(output, ".lock").filename(),
                       DirectoryLock::OnRelease::remove_file);
}

}  // namespace

fs::path StagingFolder::path_for(const fs::path& output) { return sibling(output, ".partial"); }

StagingFolder::StagingFolder(const fs::path& output)
    : output_(output), path_(path_for(output)), lock_(lock_beside(output)) {
  remove_unfinished();
  fs::create_directory(path_);
}

StagingFolder::~StagingFolder() {
  if (published_) return;
  std::error_code ignored;
  const fs::directory_iterator entries(path_, ignored);
  if (std::none_of(begin(entries), end(entries), [](const auto& entry) { return entry.path().extension() == ".h5"; })) {
    fs::remove_all(path_, ignored);
  }
}

void StagingFolder::publish(const Manifest& manifest) {
  write_file_durably(path_ / kManifestName, to_json(manifest));
  std::set<std::string> wanted{std::string(kManifestName)};
  for (const ShardEntry& shard : manifest.shards) wanted.insert(shard.path);
  remove_if([&](const fs::path& file) { return !wanted.contains(file.filename()); });
  sync_folder(path_);
  rename_durably(path_, output_);
  published_ = true;
}

/// Only what a run that was stopped writes is removed, and shards that are whole stay.
void StagingFolder::remove_unfinished() const {
  std::error_code ignored;
  if (!fs::exists(fs::symlink_status(path_, ignored))) return;
  for (const fs::directory_entry& entry : fs::directory_iterator(path_)) {
    const std::string name = entry.path().filename();
    if (!name.starts_with("shard-") && !name.starts_with(kManifestName)) {
      throw DataError(entry.path(), "is no part of an unfinished dataset; move it elsewhere, then start again");
    }
  }
  remove_if([](const fs::path& file) { return !is_settled(file); });
}

void StagingFolder::remove_if(const std::function<bool(const fs::path& file)>& unwanted) const {
  std::vector<fs::path> files;
  for (const fs::directory_entry& entry : fs::directory_iterator(path_)) files.push_back(entry.path());
  for (const fs::path& file : files) {
    if (unwanted(file)) fs::remove(file);
  }
}

}  // namespace perrin::data
