#include "data/source/npz.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cstddef>
#include <cstring>
#include <optional>
#include <string_view>
#include <utility>

#include "data/data_error.hpp"
#include "data/source/zip_archive.hpp"

namespace perrin::data {
namespace {

static_assert(std::endian::native == std::endian::little, "big-endian elements are turned around below");

constexpr std::string_view kMagic("\x93NUMPY", 6);
constexpr std::string_view kEnding = ".npy";
/// numpy's own limit for headers that it does not trust is 10,000.
constexpr std::size_t kMaxHeaderBytes = 10'000;

/// What the header of a .npy file says; https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
struct NpyHeader {
  std::string descr;
  bool fortran_order = false;
  std::vector<std::uint64_t> shape;
  std::uint64_t bytes = 0;  // of the header, magic and all
};

/// The text after 'key': in the header's Python dictionary.
std::string_view value_of(std::string_view header, std::string_view key) {
  const std::size_t at = header.find(fmt::format("'{}':", key));
  if (at == std::string_view::npos) return {};
  header.remove_prefix(at + key.size() + 3);
  header.remove_prefix(std::min(header.find_first_not_of(' '), header.size()));
  return header;
}

std::optional<std::vector<std::uint64_t>> read_tuple(std::string_view text) {
  const std::size_t end = text.find(')');
  if (!text.starts_with('(') || end == std::string_view::npos) return std::nullopt;
  text = text.substr(1, end - 1);
  std::vector<std::uint64_t> numbers;
  while (!text.empty()) {
    text.remove_prefix(std::min(text.find_first_not_of(", "), text.size()));
    if (text.empty()) break;
    std::uint64_t number = 0;
    const auto [next, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc()) return std::nullopt;
    numbers.push_back(number);
    text.remove_prefix(static_cast<std::size_t>(next - text.data()));
  }
  return numbers;
}

NpyHeader read_header(ZipStream& stream, const std::string& name) {
  std::array<std::byte, 8> start{};
  stream.read(start);
  const auto version = std::to_integer<int>(start[6]);
  if (std::memcmp(start.data(), kMagic.data(), kMagic.size()) != 0 || version < 1 || version > 3) {
    throw DataError(name, "is no .npy array of version 1 to 3; save it again with numpy.savez");
  }
  std::vector<std::byte> length_bytes(version == 1 ? 2 : 4);
  stream.read(length_bytes);
  std::size_t length = 0;
  for (std::size_t i = length_bytes.size(); i-- > 0;)
    length = length << 8 | std::to_integer<std::size_t>(length_bytes[i]);
  if (length > kMaxHeaderBytes)
    throw DataError(name, fmt::format("has a header of {} bytes, which is no array's", length));
  std::string text(length, '\0');
  stream.read(std::as_writable_bytes(std::span(text)));

  NpyHeader header;
  const std::string_view descr = value_of(text, "descr");
  if (descr.starts_with('\'')) header.descr = descr.substr(1, descr.find('\'', 1) - 1);
  header.fortran_order = value_of(text, "fortran_order").starts_with("True");
  const auto shape = read_tuple(value_of(text, "shape"));
  if (header.descr.empty() || !shape) {
    throw DataError(name, "has a header that is not understood; save it again with numpy.savez, without structures");
  }
  header.shape = *shape;
  header.bytes = start.size() + length_bytes.size() + length;
  if (header.descr.find('O') != std::string::npos) {
    throw DataError(name, "holds Python objects, which are pickles and can run any code; they are refused");
  }
  return header;
}

class NpzReader {
 public:
  explicit NpzReader(const ZipArchive& archive) : archive_(archive) {}

  std::vector<std::string> keys() const {
    std::vector<std::string> keys;
    for (const ZipMember& member : archive_.members())
      keys.push_back(member.name.substr(0, member.name.size() - kEnding.size()));
    return keys;
  }

  /// uint8 [n, C, H, W]
  std::pair<ImageAxes, std::vector<std::uint8_t>> images(const std::string& key,
                                                         const std::optional<Layout>& layout) const {
    const std::size_t member = member_of(key);
    const std::string name = archive_.name(member);
    ZipStream stream = archive_.open(member);
    const NpyHeader header = read_header(stream, name);
    if (header.descr != "|u1" && header.descr != "u1") {
      throw DataError(name,
                      fmt::format("has elements of type '{}'; images are uint8, 0 to 255: convert them", header.descr));
    }
    require_size(member, header, 1);
    const ImageAxes axes = image_axes(name, header.shape, layout);
    std::vector<std::uint8_t> pixels(axes.images * axes.shape.bytes());
    std::vector<std::uint8_t> image(axes.shape.bytes());
    for (std::uint64_t i = 0; i < axes.images; ++i) {
      stream.read(std::as_writable_bytes(std::span(image)));
      const auto to = pixels.begin() + static_cast<std::ptrdiff_t>(i * image.size());
      if (axes.layout == Layout::nchw) {
        std::copy(image.begin(), image.end(), to);
      } else {
        const Picture planes = from_interleaved(axes.shape, /*has_alpha=*/false, image.data());
        std::copy(planes.pixels.begin(), planes.pixels.end(), to);
      }
    }
    return {axes, std::move(pixels)};
  }

  NpzContents whole(const std::string& key) const {
    const std::size_t member = member_of(key);
    if (member == archive_.members().size()) throw DataError(archive_.path(), "holds no array '" + key + "'");
    const std::string name = archive_.name(member);
    ZipStream stream = archive_.open(member);
    const NpyHeader header = read_header(stream, name);
    std::size_t width = 0;  // "<f8": order, kind, bytes
    const char *const first = header.descr.data() + std::min<std::size_t>(2, header.descr.size()),
                      *const last = header.descr.data() + header.descr.size();
    const auto [end, error] = std::from_chars(first, last, width);
    if (error != std::errc() || end != last || width == 0)
      throw DataError(name, fmt::format("has elements of type '{}', which is not understood", header.descr));
    require_size(member, header, width);
    std::vector<std::byte> bytes(archive_.members()[member].bytes - header.bytes);
    stream.read(bytes);
    return {{key, header.descr, header.shape}, std::move(bytes)};
  }

  std::vector<std::int32_t> labels(const std::string& key, std::uint64_t images) const {
    const std::size_t member = member_of(key);
    const std::string name = archive_.name(member);
    ZipStream stream = archive_.open(member);
    const NpyHeader header = read_header(stream, name);
    const std::string_view descr = header.descr;
    const bool is_integer = descr.size() == 3 && (descr[1] == 'i' || descr[1] == 'u') &&
                            std::string_view("1248").find(descr[2]) != std::string_view::npos;
    if (!is_integer || header.shape.size() != 1) {
      throw DataError(name, fmt::format("is of type '{}' and rank {}; labels are integers [n]: for one-hot rows save "
                                        "their argmax",
                                        descr, header.shape.size()));
    }
    const auto width = static_cast<std::size_t>(descr[2] - '0');
    require_size(member, header, width);
    std::vector<std::byte> bytes(header.shape[0] * width);
    stream.read(bytes);
    std::vector<std::int64_t> numbers;
    for (std::size_t at = 0; at < bytes.size(); at += width) {
      if (descr[0] == '>') std::reverse(&bytes[at], &bytes[at] + width);
      const bool negative = descr[1] == 'i' && (bytes[at + width - 1] & std::byte{0x80}) != std::byte{0};
      std::int64_t number = negative ? -1 : 0;
      std::memcpy(&number, &bytes[at], width);
      if (descr[1] == 'u' && number < 0) number = INT64_MAX;  // beyond 63 bits: refused with all that is too large
      numbers.push_back(number);
    }
    return checked_labels(name, numbers, images);
  }

 private:
  std::size_t member_of(const std::string& key) const {
    const auto& members = archive_.members();
    const auto found = std::find_if(members.begin(), members.end(),
                                    [&](const ZipMember& member) { return member.name == key + std::string(kEnding); });
    return static_cast<std::size_t>(found - members.begin());
  }

  void require_size(std::size_t member, const NpyHeader& header, std::uint64_t element_bytes) const {
    std::uint64_t bytes = element_bytes;
    bool fits = !header.fortran_order || header.shape.size() <= 1;
    if (!fits) throw DataError(archive_.name(member), "is in Fortran order; save numpy.ascontiguousarray of it");
    for (const std::uint64_t extent : header.shape) fits = fits && !__builtin_mul_overflow(bytes, extent, &bytes);
    fits = fits && !__builtin_add_overflow(bytes, header.bytes, &bytes);
    if (!fits || bytes != archive_.members()[member].bytes) {
      throw DataError(archive_.name(member),
                      fmt::format("has {} bytes, which is not what its shape [{}] needs; it is damaged",
                                  archive_.members()[member].bytes, fmt::join(header.shape, ", ")));
    }
  }

  const ZipArchive& archive_;
};

}  // namespace

bool is_npz(const ZipArchive& archive) {
  const auto& members = archive.members();
  return !members.empty() && std::all_of(members.begin(), members.end(),
                                         [](const ZipMember& member) { return member.name.ends_with(kEnding); });
}

std::vector<NpzArray> list_npz(const ZipArchive& archive) {
  std::vector<NpzArray> arrays;
  for (std::size_t member = 0; member < archive.members().size(); ++member) {
    const std::string& file = archive.members()[member].name;
    ZipStream stream = archive.open(member);
    const NpyHeader header = read_header(stream, archive.name(member));
    arrays.push_back({file.substr(0, file.size() - kEnding.size()), header.descr, header.shape});
  }
  return arrays;
}

NpzContents read_npz_array(const ZipArchive& archive, const std::string& name) {
  return NpzReader(archive).whole(name);
}

std::unique_ptr<ArraySource> read_npz(const ZipArchive& archive, const ArrayOptions& options,
                                      std::vector<std::string> class_names) {
  const NpzReader reader(archive);
  const ArrayKeys keys = choose_arrays(archive.path(), reader.keys(), options);
  auto [axes, pixels] = reader.images(keys.images, options.layout);
  std::vector<std::int32_t> labels(axes.images, -1);
  if (!keys.labels.empty()) labels = reader.labels(keys.labels, axes.images);
  return std::make_unique<ArraySource>(
      ImageArray{"npz", archive.path(), axes.shape, std::move(pixels), std::move(labels), std::move(class_names)});
}

}  // namespace perrin::data
