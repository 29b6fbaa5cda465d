#include <fmt/format.h>
#include <png.h>

#include <algorithm>
#include <csetjmp>
#include <cstring>
#include <string>
#include <vector>

#include "data/data_error.hpp"
#include "data/source/decode.hpp"
#include "data/source/exif_orientation.hpp"

namespace perrin::data {
namespace {

/// Deflate makes nothing smaller than 1/1032 (zlib's own figure): a header that promises more is lying, and must not
/// cost a gigabyte.
constexpr std::uint64_t kMaxDeflateRatio = 1032;

/// What libpng's callbacks see.
struct Input {
  std::span<const std::byte> rest;
  std::string error;
};

void read_bytes(png_structp png, png_bytep into, png_size_t count) {
  auto& input = *static_cast<Input*>(png_get_io_ptr(png));
  if (count > input.rest.size()) png_error(png, "it ends early");
  std::memcpy(into, input.rest.data(), count);
  input.rest = input.rest.subspan(count);
}

void keep_error(png_structp png, png_const_charp message) {
  static_cast<Input*>(png_get_error_ptr(png))->error = message;
  png_longjmp(png, 1);
}

void ignore_warning(png_structp, png_const_charp) {}

/// libpng's reader. It leaves its functions by longjmp, over which no destructor may lie: each member function that
/// calls it has only plain values, and says by its result whether it was left so.
class PngReader {
 public:
  explicit PngReader(std::span<const std::byte> file)
      : input_{file, {}}, png_(png_create_read_struct(PNG_LIBPNG_VER_STRING, &input_, keep_error, ignore_warning)) {
    if (png_ != nullptr) info_ = png_create_info_struct(png_);
    if (info_ == nullptr) {
      png_destroy_read_struct(&png_, nullptr, nullptr);
      throw std::bad_alloc();
    }
    png_set_read_fn(png_, &input_, read_bytes);
  }
  PngReader(const PngReader&) = delete;
  PngReader& operator=(const PngReader&) = delete;
  ~PngReader() { png_destroy_read_struct(&png_, &info_, nullptr); }

  bool read_header() {
    if (setjmp(png_jmpbuf(png_)) != 0) return false;  // NOLINT(cert-err52-cpp): libpng knows no other way
    png_set_user_limits(png_, kMaxPixels, kMaxPixels);
    png_read_info(png_, info_);
    return true;
  }
  std::uint32_t height() const { return png_get_image_height(png_, info_); }
  std::uint32_t width() const { return png_get_image_width(png_, info_); }
  /// Of all rows as they are stored, unpacked but not yet expanded.
  std::uint64_t stored_bytes() const { return std::uint64_t{height()} * png_get_rowbytes(png_, info_); }
  int bit_depth() const { return png_get_bit_depth(png_, info_); }

  /// Settles the channels; afterwards pixels() may be called.
  bool expand() {
    if (setjmp(png_jmpbuf(png_)) != 0) return false;  // NOLINT(cert-err52-cpp)
    png_set_expand(png_);
    png_set_interlace_handling(png_);
    png_read_update_info(png_, info_);
    return true;
  }
  std::uint32_t channels() const { return png_get_channels(png_, info_); }
  bool has_alpha() const { return (png_get_color_type(png_, info_) & PNG_COLOR_MASK_ALPHA) != 0; }

  bool read_rows(png_bytep* rows) {
    if (setjmp(png_jmpbuf(png_)) != 0) return false;  // NOLINT(cert-err52-cpp)
    png_read_image(png_, rows);
    png_read_end(png_, info_);
    return true;
  }

  int orientation() const {
    png_uint_32 size = 0;
    png_bytep exif = nullptr;
    if (png_get_eXIf_1(png_, info_, &size, &exif) == 0 || exif == nullptr) return 1;
    return exif_orientation({exif, size});
  }

  const std::string& error() const { return input_.error; }

 private:
  Input input_;
  png_structp png_;
  png_infop info_ = nullptr;
};

}  // namespace

Picture decode_png(std::span<const std::byte> file, const std::string& name) {
  PngReader reader(file);
  const auto require = [&](bool done) {
    if (!done) throw DataError(name, fmt::format("is a damaged PNG ({}); copy it again", reader.error()));
  };
  require(reader.read_header());
  require_decodable_size(name, reader.height(), reader.width());
  if (reader.stored_bytes() / kMaxDeflateRatio > file.size()) {
    throw DataError(name,
                    fmt::format("says it is {} x {}, which cannot be in a file of {} bytes; it is damaged: copy it "
                                "again",
                                reader.height(), reader.width(), file.size()));
  }
  if (reader.bit_depth() == 16) throw DataError(name, "has 16 bits a channel, datasets have 8; convert it first");
  require(reader.expand());
  const ImageShape shape{reader.channels(), reader.height(), reader.width()};
  std::vector<std::uint8_t> pixels(shape.bytes());
  std::vector<png_bytep> rows(shape.height);
  for (std::size_t y = 0; y < rows.size(); ++y) rows[y] = pixels.data() + y * shape.width * shape.channels;
  require(reader.read_rows(rows.data()));
  return upright(from_interleaved(shape, reader.has_alpha(), pixels.data()), reader.orientation());
}

}  // namespace perrin::data
