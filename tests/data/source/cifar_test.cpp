#include "data/source/cifar.hpp"

#include "data/source/open_source.hpp"
#include "tests/data/support.hpp"

namespace perrin::data::test {
namespace {

using ::testing::HasSubstr;

constexpr std::size_t kPixels = 3072;

std::string record(std::string labels, std::uint64_t image) {
  for (std::size_t k = 0; k < kPixels; ++k) labels += static_cast<char>(pixel_of(image, k));
  return labels;
}

class Cifar : public ::testing::Test {
 protected:
  void write_cifar10() {
    for (int batch = 1; batch <= 5; ++batch) {
      write_contents(folder_ / ("data_batch_" + std::to_string(batch) + ".bin"),
                     record({static_cast<char>(batch)}, batch * 2) + record({'\0'}, batch * 2 + 1));
    }
    write_contents(folder_ / "test_batch.bin", record("\x09", 100));
    write_contents(folder_ / "batches.meta.txt",
                   "airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n\n");
  }

  const TemporaryFolder folder_;
};

TEST_F(Cifar, ReadsTheBatchesOfCifar10InTheirOrder) {
  write_cifar10();
  const auto source = open_source(folder_.path(), {});
  EXPECT_EQ(source->kind(), "cifar-10");
  ASSERT_EQ(source->size(), 10u);
  for (std::uint64_t i = 0; i < 10; ++i) {
    EXPECT_EQ(source->label(i), i % 2 == 0 ? static_cast<int>(i / 2 + 1) : 0);
    const Picture picture = source->read(i);
    ASSERT_EQ(picture.shape, (ImageShape{3, 32, 32}));
    for (std::size_t k = 0; k < kPixels; ++k) ASSERT_EQ(picture.pixels[k], pixel_of(i + 2, k));
  }
  EXPECT_EQ(source->class_names().size(), 10u);
  EXPECT_EQ(source->class_names()[9], "truck");
  const auto test = open_source(folder_.path(), {.subset = Subset::test});
  EXPECT_EQ(test->size(), 1u);
  EXPECT_EQ(test->label(0), 9);
}

TEST_F(Cifar, ReadsEitherLabelOfCifar100) {
  write_contents(folder_ / "train.bin", record({'\x13', '\x63'}, 0) + record({'\x02', '\x07'}, 1));
  const auto fine = open_source(folder_.path(), {});
  EXPECT_EQ(fine->label(0), 99);
  EXPECT_EQ(fine->label(1), 7);
  const auto coarse = open_source(folder_ / "train.bin", {.cifar_labels = CifarLabels::coarse});
  EXPECT_EQ(coarse->label(0), 19);
  EXPECT_EQ(coarse->kind(), "cifar-100 (coarse labels)");
  EXPECT_NE(coarse->digest(), fine->digest());
  EXPECT_EQ(coarse->read(1).pixels, fine->read(1).pixels);
}

TEST_F(Cifar, RefusesIncompleteAndDamagedFiles) {
  write_cifar10();
  const auto refusal = [&] {
    return data_error_of([&] { read_cifar(folder_.path(), Subset::train, CifarLabels::fine); });
  };
  fs::resize_file(folder_ / "data_batch_3.bin", 2 * 3073 - 1);
  EXPECT_THAT(refusal(), AllOf(HasSubstr("data_batch_3.bin"), HasSubstr("no whole number")));
  write_contents(folder_ / "data_batch_3.bin", record("\x0a", 0));
  EXPECT_THAT(refusal(), HasSubstr("label 10 of image 0; cifar-10 has classes 0 to 9"));
  fs::remove(folder_ / "data_batch_3.bin");
  EXPECT_THAT(refusal(), HasSubstr("has no data_batch_3.bin"));
}

TEST_F(Cifar, RefusesPicklesAndPointsToTheBinaryVersion) {
  write_contents(folder_ / "data_batch_1", std::string("\x80\x02}q\0", 5));
  EXPECT_THAT(data_error_of([&] { open_source(folder_.path(), {}); }), HasSubstr("give the binary version"));
  EXPECT_THAT(data_error_of([&] { open_source(folder_ / "data_batch_1", {}); }), HasSubstr("is a Python pickle"));
}

TEST_F(Cifar, RefusesOptionsThatItHasNoUseFor) {
  write_cifar10();
  EXPECT_THAT(data_error_of([&] { open_source(folder_.path(), {.labels = "x"}); }), HasSubstr("--labels is for IDX"));
  EXPECT_THAT(data_error_of([&] { open_source(folder_ / "test_batch.bin", {.subset = Subset::test}); }),
              HasSubstr("is for CIFAR"));
}

}  // namespace
}  // namespace perrin::data::test
