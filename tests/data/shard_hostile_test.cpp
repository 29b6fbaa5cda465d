#include <hdf5.h>

#include <functional>
#include <random>

#include "data/shard_reader.hpp"
#include "data/shard_writer.hpp"
#include "tests/data/support.hpp"

namespace perrin::data::test {
namespace {

using ::testing::HasSubstr;

constexpr ImageShape kShape{1, 4, 4};
constexpr hsize_t kImages = 600;

/// A valid shard that a test then bends with HDF5 itself.
class HostileShard : public ::testing::Test {
 protected:
  HostileShard() {
    const std::vector<std::int32_t> labels(kImages, 1);
    const std::vector<std::uint64_t> ids(kImages, 5);
    ShardWriter writer(path_, kShape, labels, ids, {"uuid", 0, 1, {}, "test", "none", 0});
    std::vector<std::uint8_t> pixels(kImages * kShape.bytes());
    for (std::size_t i = 0; i < pixels.size(); ++i) pixels[i] = pixel_of(i / kShape.bytes(), i % kShape.bytes());
    writer.write(0, pixels);
    writer.finish();
  }

  void bend(const std::function<void(hid_t file)>& change) {
    const hid_t file = H5Fopen(path_.c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
    ASSERT_GE(file, 0);
    change(file);
    ASSERT_GE(H5Fclose(file), 0);
  }

  /// Replaces a dataset by one of another type, shape or storage.
  void replace(const char* name, hid_t type, std::vector<hsize_t> extents,
               const std::function<void(hid_t creation)>& configure = {}) {
    bend([&](hid_t file) {
      ASSERT_GE(H5Ldelete(file, name, H5P_DEFAULT), 0);
      const hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
      H5Pset_alloc_time(creation, H5D_ALLOC_TIME_EARLY);
      if (configure) configure(creation);
      const hid_t space = H5Screate_simple(static_cast<int>(extents.size()), extents.data(), nullptr);
      const hid_t dataset = H5Dcreate2(file, name, type, space, H5P_DEFAULT, creation, H5P_DEFAULT);
      ASSERT_GE(dataset, 0);
      H5Dclose(dataset);
      H5Sclose(space);
      H5Pclose(creation);
    });
  }

  /// What H5Lcreate_external("other.h5", "/images", file, "images") writes; the library under test has switched that
  /// kind of link off in this process, so a kind of the same number takes its place while the link is made.
  static void create_external_link(hid_t file) {
    H5L_class_t kind{};
    kind.version = H5L_LINK_CLASS_T_VERS;
    kind.id = H5L_TYPE_EXTERNAL;
    kind.trav_func = [](const char*, hid_t, const void*, size_t, hid_t, hid_t) -> hid_t { return -1; };
    ASSERT_GE(H5Lregister(&kind), 0);
    const std::string value("\0other.h5\0/images\0", 18);  // flags, file, object
    ASSERT_GE(H5Lcreate_ud(file, "images", H5L_TYPE_EXTERNAL, value.data(), value.size(), H5P_DEFAULT, H5P_DEFAULT), 0);
    ASSERT_GE(H5Lunregister(H5L_TYPE_EXTERNAL), 0);
  }

  std::string refusal() {
    return data_error_of([&] { ShardReader shard(path_); });
  }

  const TemporaryFolder folder_;
  const fs::path path_ = folder_ / "s.h5";
};

TEST_F(HostileShard, IsAcceptedBeforeItIsBent) { EXPECT_NO_THROW(ShardReader{path_}); }

TEST_F(HostileShard, ExternalStorageIsRefused) {
  const std::string secret = folder_ / "secret";
  write_contents(secret, std::string(kImages * kShape.bytes(), 's'));
  replace("images", H5T_STD_U8LE, {kImages, 1, 4, 4}, [&](hid_t creation) {
    ASSERT_GE(H5Pset_external(creation, secret.c_str(), 0, kImages * kShape.bytes()), 0);
  });
  EXPECT_THAT(refusal(), HasSubstr("/images has external storage"));
}

TEST_F(HostileShard, ExternalLinksAreRefused) {
  fs::copy_file(path_, folder_ / "other.h5");
  bend([](hid_t file) {
    H5Ldelete(file, "images", H5P_DEFAULT);
    create_external_link(file);
  });
  EXPECT_THAT(refusal(), HasSubstr("/images is a soft or external link"));
}

TEST_F(HostileShard, SoftLinksAreRefused) {
  bend([](hid_t file) {
    H5Lmove(file, "labels", file, "elsewhere", H5P_DEFAULT, H5P_DEFAULT);
    ASSERT_GE(H5Lcreate_soft("/elsewhere", file, "labels", H5P_DEFAULT, H5P_DEFAULT), 0);
  });
  EXPECT_THAT(refusal(), HasSubstr("/labels is a soft or external link"));
}

TEST_F(HostileShard, VirtualDataSetsAreRefused) {
  replace("images", H5T_STD_U8LE, {kImages, 1, 4, 4}, [](hid_t creation) {
    const std::vector<hsize_t> extents{kImages, 1, 4, 4};
    const hid_t space = H5Screate_simple(4, extents.data(), nullptr);
    ASSERT_GE(H5Pset_virtual(creation, space, "missing.h5", "/images", space), 0);
    H5Sclose(space);
  });
  EXPECT_THAT(refusal(), HasSubstr("/images is a virtual dataset"));
}

TEST_F(HostileShard, ChunkedFilteredAndCompactDataSetsAreRefused) {
  const std::vector<hsize_t> chunk{100, 1, 4, 4};
  replace("images", H5T_STD_U8LE, {kImages, 1, 4, 4}, [&](hid_t creation) { H5Pset_chunk(creation, 4, chunk.data()); });
  EXPECT_THAT(refusal(), HasSubstr("/images is chunked"));
  replace("images", H5T_STD_U8LE, {kImages, 1, 4, 4}, [&](hid_t creation) {
    H5Pset_chunk(creation, 4, chunk.data());
    H5Pset_deflate(creation, 1);
  });
  EXPECT_THAT(refusal(), HasSubstr("/images is chunked"));
  replace("images", H5T_STD_U8LE, {kImages, 1, 4, 4}, [](hid_t creation) { H5Pset_layout(creation, H5D_COMPACT); });
  EXPECT_THAT(refusal(), HasSubstr("/images is compact"));
}

TEST_F(HostileShard, OtherTypesAndShapesAreRefused) {
  replace("images", H5T_STD_I8LE, {kImages, 1, 4, 4});
  EXPECT_THAT(refusal(), HasSubstr("/images has another element type"));
  replace("images", H5T_IEEE_F32LE, {kImages, 1, 4, 4});
  EXPECT_THAT(refusal(), HasSubstr("/images has another element type"));
  replace("images", H5T_STD_U8LE, {kImages, 16});
  EXPECT_THAT(refusal(), HasSubstr("/images has 2 dimensions, not 4"));
  replace("images", H5T_STD_U8LE, {kImages, 1, 1, 1, 4, 4});
  EXPECT_THAT(refusal(), HasSubstr("/images has 6 dimensions, not 4"));
  replace("images", H5T_STD_U8LE, {kImages + 1, 1, 4, 4});
  EXPECT_THAT(refusal(), HasSubstr("/labels has 600 entries for 601 images"));
}

TEST_F(HostileShard, EmptyAndUnwrittenDataSetsAreRefused) {
  replace("images", H5T_STD_U8LE, {0, 1, 4, 4});
  EXPECT_THAT(refusal(), HasSubstr("does not fit in a file"));
  replace("images", H5T_STD_U8LE, {kImages, 1, 4, 4},
          [](hid_t creation) { H5Pset_alloc_time(creation, H5D_ALLOC_TIME_LATE); });
  EXPECT_THAT(refusal(), HasSubstr("was never written"));
}

TEST_F(HostileShard, ShapesLargerThanTheFileAreRefusedWithoutAllocating) {
  const auto late = [](hid_t creation) { H5Pset_alloc_time(creation, H5D_ALLOC_TIME_LATE); };
  replace("images", H5T_STD_U8LE, {hsize_t{1} << 40, 3, 1024, 1024}, late);
  EXPECT_THAT(refusal(), HasSubstr("does not fit in a file"));
  replace("images", H5T_STD_U8LE, {hsize_t{1} << 32, hsize_t{1} << 16, 1, 1}, late);
  EXPECT_THAT(refusal(), HasSubstr("does not fit in a file"));
}

TEST_F(HostileShard, AGroupInPlaceOfADataSetIsRefused) {
  bend([](hid_t file) {
    H5Ldelete(file, "labels", H5P_DEFAULT);
    H5Gclose(H5Gcreate2(file, "labels", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
  });
  EXPECT_THAT(refusal(), HasSubstr("/labels is not a dataset"));
}

TEST_F(HostileShard, MissingPartsAreNamed) {
  bend([](hid_t file) { H5Ldelete(file, "crc32c", H5P_DEFAULT); });
  EXPECT_THAT(refusal(), HasSubstr("has no dataset /crc32c"));
  bend([](hid_t file) { H5Adelete(file, "layout"); });
  EXPECT_THAT(refusal(), HasSubstr("cannot find attribute 'layout'"));
}

TEST_F(HostileShard, AttributesOfOtherKindsAreRefused) {
  bend([](hid_t file) {
    H5Adelete(file, "converter");
    const hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, H5T_VARIABLE);
    const hid_t space = H5Screate(H5S_SCALAR);
    const hid_t attribute = H5Acreate2(file, "converter", type, space, H5P_DEFAULT, H5P_DEFAULT);
    const char* text = "variable";
    H5Awrite(attribute, type, &text);
    H5Aclose(attribute);
    H5Sclose(space);
    H5Tclose(type);
  });
  EXPECT_THAT(refusal(), HasSubstr("attribute 'converter' is not text of fixed length"));
  bend([](hid_t file) {
    H5Adelete(file, "shard_index");
    const hid_t space = H5Screate(H5S_SCALAR);
    const hid_t attribute = H5Acreate2(file, "shard_index", H5T_IEEE_F64LE, space, H5P_DEFAULT, H5P_DEFAULT);
    H5Aclose(attribute);
    H5Sclose(space);
  });
  EXPECT_THAT(refusal(), HasSubstr("attribute 'shard_index' is not one unsigned integer"));
}

TEST_F(HostileShard, ANewerVersionIsNamed) {
  bend([](hid_t file) {
    const hid_t attribute = H5Aopen(file, "format_version", H5P_DEFAULT);
    const std::uint32_t version = 2;
    H5Awrite(attribute, H5T_NATIVE_UINT32, &version);
    H5Aclose(attribute);
  });
  EXPECT_THAT(refusal(), HasSubstr("has format version 2, this program reads version 1"));
}

TEST_F(HostileShard, ForeignFilesAreNamedForWhatTheyAre) {
  write_contents(path_, "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n");
  EXPECT_THAT(refusal(), AllOf(HasSubstr("Git-LFS pointer"), HasSubstr("git lfs pull")));
  write_contents(path_, "\n <!DOCTYPE html><html><body>404</body></html>");
  EXPECT_THAT(refusal(), HasSubstr("is a web page"));
  write_contents(path_, "");
  EXPECT_THAT(refusal(), HasSubstr("is empty"));
  write_contents(path_, std::string(4096, '\0'));
  EXPECT_THAT(refusal(), HasSubstr("starts with zeros"));
  write_contents(path_, "PK\x03\x04 some archive");
  EXPECT_THAT(refusal(), HasSubstr("does not start with HDF5's signature"));
}

TEST_F(HostileShard, ASymbolicLinkIsRefused) {
  fs::create_symlink("s.h5", folder_ / "link.h5");
  EXPECT_THAT(data_error_of([&] { ShardReader shard(folder_ / "link.h5"); }), HasSubstr("symbolic links"));
}

TEST_F(HostileShard, FlippedMetadataNeverGivesAWrongPixel) {
  // Everything outside the megabyte of /images' alignment and outside /images: HDF5's structures, the tables.
  const std::string good = contents_of(path_);
  const ShardLayout layout = ShardReader(path_).layout();
  const std::uint64_t images_end = layout.images_offset + kImages * kShape.bytes();
  std::vector<std::uint64_t> bytes;
  for (std::uint64_t byte = 0; byte < good.size(); ++byte) {
    if (good[byte] != '\0' && (byte < layout.images_offset || byte >= images_end)) bytes.push_back(byte);
  }
  std::mt19937 generator(1);
  int refused = 0;
  constexpr int kMutants = 300;
  for (int i = 0; i < kMutants; ++i) {
    const std::uint64_t byte = bytes[generator() % bytes.size()];
    flip_bit(path_, byte, static_cast<int>(generator() % 8));
    try {
      const ShardReader shard(path_);
      std::vector<std::uint8_t> pixels(kShape.bytes());
      for (std::uint64_t image = 0; image < shard.size(); ++image) {
        shard.read(image, 1, pixels);
        ASSERT_EQ(pixels[3], pixel_of(image, 3)) << "byte " << byte;
        ASSERT_EQ(shard.label(image), 1) << "byte " << byte;
      }
    } catch (const DataError& error) {
      EXPECT_EQ(error.file(), path_);
      ++refused;
    }
    write_contents(path_, good);
  }
  EXPECT_GT(refused, kMutants / 2);
}

}  // namespace
}  // namespace perrin::data::test
