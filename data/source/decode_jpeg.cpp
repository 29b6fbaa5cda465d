#include <fmt/format.h>
#include <jerror.h>
#include <jpeglib.h>

#include <algorithm>
#include <array>
#include <csetjmp>
#include <cstddef>
#include <cstdio>  // jpeglib.h needs it first
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "data/data_error.hpp"
#include "data/source/decode.hpp"
#include "data/source/exif_orientation.hpp"

namespace perrin::data {
namespace {

constexpr std::string_view kExif("Exif\0\0", 6);
constexpr int kExifMarker = JPEG_APP0 + 1;
constexpr unsigned kMaxMarkerBytes = 0xffff;
/// A scan costs a pass over all of a progressive image; encoders write about 10.
constexpr int kMaxScans = 100;

struct Errors {
  jpeg_error_mgr manager;  // first: libjpeg hands back its address
  jpeg_progress_mgr progress;
  std::jmp_buf leave;
  std::array<char, JMSG_LENGTH_MAX> message;
};

Errors& errors_of(j_common_ptr jpeg) { return *reinterpret_cast<Errors*>(jpeg->err); }

[[noreturn]] void leave(j_common_ptr jpeg) {
  jpeg->err->format_message(jpeg, errors_of(jpeg).message.data());
  std::longjmp(errors_of(jpeg).leave, 1);  // NOLINT(cert-err52-cpp): libjpeg knows no other way
}

/// libjpeg fills what is missing with grey and warns; that would be a wrong image.
void refuse_missing_data(j_common_ptr jpeg, int level) {
  const int code = jpeg->err->msg_code;
  if (level < 0 && (code == JWRN_JPEG_EOF || code == JWRN_HIT_MARKER || code == JWRN_HUFF_BAD_CODE)) leave(jpeg);
}

void refuse_endless_scans(j_common_ptr jpeg) {
  if (reinterpret_cast<j_decompress_ptr>(jpeg)->input_scan_number > kMaxScans) {
    std::strcpy(errors_of(jpeg).message.data(), "it has too many scans");
    std::longjmp(errors_of(jpeg).leave, 1);  // NOLINT(cert-err52-cpp)
  }
}

/// libjpeg's decompressor; as with libpng no destructor may lie over a longjmp.
class JpegReader {
 public:
  explicit JpegReader(std::span<const std::byte> file) {
    jpeg_.err = jpeg_std_error(&errors_.manager);
    errors_.manager.error_exit = leave;
    errors_.manager.emit_message = refuse_missing_data;
    errors_.progress.progress_monitor = refuse_endless_scans;
    created_ = create(file);
  }
  JpegReader(const JpegReader&) = delete;
  JpegReader& operator=(const JpegReader&) = delete;
  ~JpegReader() { jpeg_destroy_decompress(&jpeg_); }

  bool read_header() {
    if (!created_) return false;
    if (setjmp(errors_.leave) != 0) return false;  // NOLINT(cert-err52-cpp)
    jpeg_save_markers(&jpeg_, kExifMarker, kMaxMarkerBytes);
    jpeg_read_header(&jpeg_, TRUE);
    return true;
  }
  std::uint32_t height() const { return jpeg_.image_height; }
  std::uint32_t width() const { return jpeg_.image_width; }
  J_COLOR_SPACE stored_colours() const { return jpeg_.jpeg_color_space; }

  /// @param pixels  uint8 [H, W, channels]
  bool read_pixels(std::uint32_t channels, std::uint8_t* pixels) {
    if (setjmp(errors_.leave) != 0) return false;  // NOLINT(cert-err52-cpp)
    jpeg_.out_color_space = channels == 1 ? JCS_GRAYSCALE : JCS_RGB;
    jpeg_start_decompress(&jpeg_);
    while (jpeg_.output_scanline < jpeg_.output_height) {
      JSAMPROW row = pixels + std::size_t{jpeg_.output_scanline} * jpeg_.output_width * channels;
      jpeg_read_scanlines(&jpeg_, &row, 1);
    }
    jpeg_finish_decompress(&jpeg_);
    return true;
  }

  int orientation() const {
    for (const jpeg_marker_struct* marker = jpeg_.marker_list; marker != nullptr; marker = marker->next) {
      if (marker->marker != kExifMarker || marker->data_length < kExif.size() ||
          std::memcmp(marker->data, kExif.data(), kExif.size()) != 0)
        continue;
      return exif_orientation(std::span(marker->data, marker->data_length).subspan(kExif.size()));
    }
    return 1;
  }

  const char* error() const { return errors_.message.data(); }

 private:
  bool create(std::span<const std::byte> file) {
    if (setjmp(errors_.leave) != 0) return false;  // NOLINT(cert-err52-cpp)
    jpeg_create_decompress(&jpeg_);
    jpeg_.progress = &errors_.progress;
    jpeg_mem_src(&jpeg_, reinterpret_cast<const unsigned char*>(file.data()), file.size());
    return true;
  }

  jpeg_decompress_struct jpeg_{};
  Errors errors_{};
  bool created_ = false;
};

}  // namespace

Picture decode_jpeg(std::span<const std::byte> file, const std::string& name) {
  JpegReader reader(file);
  const auto require = [&](bool done) {
    if (!done) throw DataError(name, fmt::format("is a damaged JPEG ({}); copy it again", reader.error()));
  };
  require(reader.read_header());
  require_decodable_size(name, reader.height(), reader.width());
  const J_COLOR_SPACE colours = reader.stored_colours();
  if (colours != JCS_GRAYSCALE && colours != JCS_YCbCr && colours != JCS_RGB) {
    throw DataError(name, "is a JPEG in CMYK, whose colours depend on a printer; convert it to RGB first");
  }
  const ImageShape shape{colours == JCS_GRAYSCALE ? 1u : 3u, reader.height(), reader.width()};
  std::vector<std::uint8_t> pixels(shape.bytes());
  const int orientation = reader.orientation();  // libjpeg forgets the markers once the pixels are read
  require(reader.read_pixels(shape.channels, pixels.data()));
  return upright(from_interleaved(shape, /*has_alpha=*/false, pixels.data()), orientation);
}

}  // namespace perrin::data
