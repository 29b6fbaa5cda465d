#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>

#include "data/sha256.hpp"
#include "tests/fuzz/input.hpp"
#include "trainer/checkpoint/checkpoint_error.hpp"
#include "trainer/checkpoint/manifest.hpp"

using namespace perrin;

namespace {

/// A folder with the manifest alone; the next one takes its place.
class CheckpointFolder {
 public:
  CheckpointFolder() { std::filesystem::create_directory(path_); }
  CheckpointFolder(const CheckpointFolder&) = delete;
  CheckpointFolder& operator=(const CheckpointFolder&) = delete;
  ~CheckpointFolder() { std::filesystem::remove_all(path_); }

  const std::filesystem::path& write(const std::string& manifest) const {
    std::ofstream(path_ / trainer::CheckpointManifest::kFileName, std::ios::binary | std::ios::trunc) << manifest;
    return path_;
  }

 private:
  std::filesystem::path path_ = "/dev/shm/perrin-fuzz-" + std::to_string(::getpid()) + "-checkpoint";
};

/// The same with the hash that docs/checkpoints.md asks for: nothing behind the hash would be reached otherwise.
std::string vouched_for(const std::string& manifest) {
  auto json = nlohmann::ordered_json::parse(manifest, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return manifest;
  json.erase("manifest_sha256");
  constexpr auto kReplace = nlohmann::ordered_json::error_handler_t::replace;
  json["manifest_sha256"] = data::sha256_hex(json.dump(-1, ' ', false, kReplace));
  return json.dump(-1, ' ', false, kReplace);
}

}  // namespace

/// A manifest that is understood says the same once it is written again. The first byte chooses the contents that are
/// expected.
int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  static const CheckpointFolder folder;
  if (size == 0) return 0;
  const auto expected = bytes[0] == 's' ? trainer::Contents::snapshot : trainer::Contents::checkpoint;
  const std::string manifest(reinterpret_cast<const char*>(bytes) + 1, size - 1);
  for (const std::string& text : {manifest, vouched_for(manifest)}) {
    try {
      const trainer::CheckpointManifest understood = trainer::read_manifest(folder.write(text), expected);
      const std::string again = trainer::to_json(understood);
      if (trainer::to_json(trainer::read_manifest(folder.write(again), expected)) != again) std::abort();
    } catch (const trainer::CheckpointError&) {
    }
  }
  return 0;
}
