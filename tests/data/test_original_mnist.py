"""The original files of MNIST, where they are available."""

from bn_keras import data


def test_the_original_mnist_files_match_their_description(mnist_directory):
    mnist = data.mnist(mnist_directory)
    assert mnist.train.images.shape == (60_000, 28, 28, 1)
    assert mnist.test.images.shape == (10_000, 28, 28, 1)
    assert mnist.train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
