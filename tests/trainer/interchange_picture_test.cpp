#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <png.h>

#include <filesystem>
#include <stdexcept>

#include "data/data_error.hpp"
#include "tests/trainer/temporary_folder.hpp"
#include "trainer/interchange/grid.hpp"
#include "trainer/interchange/png.hpp"

namespace perrin::trainer {
namespace {

Picture read_png(const std::filesystem::path& path, std::uint32_t format) {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  EXPECT_NE(png_image_begin_read_from_file(&image, path.c_str()), 0) << image.message;
  EXPECT_EQ(image.format, format);
  Picture picture{image.width, image.height, PNG_IMAGE_PIXEL_CHANNELS(image.format), {}};
  picture.pixels.resize(PNG_IMAGE_SIZE(image));
  EXPECT_NE(png_image_finish_read(&image, nullptr, picture.pixels.data(), 0, nullptr), 0) << image.message;
  return picture;
}

TEST(Png, ComesBackAsItWasWritten) {
  const test::TemporaryFolder folder;
  for (const std::uint32_t channels : {1u, 3u}) {
    Picture picture{5, 3, channels, {}};
    for (std::uint32_t i = 0; i < 15 * channels; ++i) {
      picture.pixels.push_back(static_cast<std::uint8_t>(i * 5));
    }
    const auto path = folder.path() / "picture.png";
    write_png(path, picture);
    EXPECT_EQ(read_png(path, channels == 1 ? PNG_FORMAT_GRAY : PNG_FORMAT_RGB).pixels, picture.pixels);
  }
}

TEST(Png, RefusesWhatIsNoPictureAndWhereItCannotWrite) {
  const test::TemporaryFolder folder;
  EXPECT_THROW(write_png(folder.path() / "a.png", Picture{2, 2, 1, {1, 2, 3}}), std::invalid_argument);
  EXPECT_THROW(write_png(folder.path() / "a.png", Picture{1, 1, 2, {1, 2}}), std::invalid_argument);
  EXPECT_THROW(write_png(folder.path() / "missing" / "a.png", Picture{1, 1, 1, {1}}), data::DataError);
}

TEST(Grid, PlacesImagesRowByRowBetweenBlackGaps) {
  at::Tensor images = at::zeros({3, 3, 2, 2}, at::kByte);
  for (std::int64_t i = 0; i < 3; ++i) {
    images[i].fill_(10 * (i + 1));
    images[i][1].fill_(10 * (i + 1) + 1);  // green differs, so that channels cannot be confused
  }
  const Picture grid = make_grid(images, 2, 2);
  EXPECT_EQ(grid.width, 10u);
  EXPECT_EQ(grid.height, 10u);
  EXPECT_EQ(grid.channels, 3u);
  const auto pixel = [&](std::size_t row, std::size_t column, std::size_t channel) {
    return grid.pixels[(row * 10 + column) * 3 + channel];
  };
  EXPECT_EQ(pixel(2, 2, 0), 10);
  EXPECT_EQ(pixel(3, 3, 1), 11);
  EXPECT_EQ(pixel(2, 6, 0), 20);
  EXPECT_EQ(pixel(6, 2, 2), 30);
  EXPECT_EQ(pixel(6, 6, 0), 0);  // no fourth image
  EXPECT_EQ(pixel(4, 2, 0), 0);  // gap
  EXPECT_EQ(pixel(0, 0, 0), 0);
}

TEST(Grid, RefusesWhatDoesNotFit) {
  EXPECT_THROW(make_grid(at::zeros({5, 1, 2, 2}, at::kByte), 2, 2), std::invalid_argument);
  EXPECT_THROW(make_grid(at::zeros({4, 2, 2, 2}, at::kByte), 2, 2), std::invalid_argument);
  EXPECT_THROW(make_grid(at::zeros({4, 1, 2, 2}), 2, 2), std::invalid_argument);
}

}  // namespace
}  // namespace perrin::trainer
