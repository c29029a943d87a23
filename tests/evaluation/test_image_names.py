from mtkd_cd.evaluation.image_names import image_name, image_names, image_paths


def _pairs(root, *names):
    return [(f'{root}/A/{name}', f'{root}/B/{name}') for name in names]


def test_a_name_is_what_both_dates_share():
    assert image_name(('/data/test/A/town/0.png', '/data/test/B/town/0.png')) == 'town/0.png'
    assert image_name(('/data/A/test/0.jpg', '/data/B/test/0.png')) == 'test/0.png'


def test_a_name_without_anything_shared_is_the_file_name():
    assert image_name(('/data/0/before.png', '/data/0/after.png')) == 'after.png'
    assert image_name(('/data/0.png',)) == '0.png'
    assert image_name(('/data/0.png', '/data/0.png')) == '0.png'


def test_names_keep_what_tells_images_apart():
    names = ['a/0.png', 'b/0.png', '0.png', 'im.v1.png', 'im.v2.png']
    assert image_names(_pairs('/data/test', *names)) == names


def test_a_set_is_named_alike_wherever_it_lies():
    assert (
        image_names(_pairs('/data/test', 'a/0.png'))
        == image_names(_pairs('elsewhere', 'a/0.png'))
        == ['a/0.png']
    )


def test_equal_names_of_two_data_sets_are_told_apart_by_their_folders():
    pairs = _pairs('/data/LEVIR/test', '0.png') + _pairs('/data/WHU/test', '0.png', '1.png')
    assert image_names(pairs) == ['LEVIR/test/B/0.png', 'WHU/test/B/0.png', 'WHU/test/B/1.png']


def test_an_image_that_comes_twice_keeps_its_name():
    assert image_names(_pairs('/data', '0.png', '0.png', '1.png')) == ['0.png', '0.png', '1.png']


def test_images_without_files_are_numbered():
    assert image_names([(), ('a/0.png', 'b/0.png'), ()]) == ['image00000', '0.png', 'image00002']


def test_paths_of_lists_of_single_files_and_of_labels_alone():
    assert image_paths({'img_path': ['A/0.png', 'B/0.png'], 'seg_map_path': 'label/0.png'}) == (
        'A/0.png',
        'B/0.png',
    )
    assert image_paths({'img_path': '0.png'}) == ('0.png',)
    assert image_paths({'img_path': None, 'seg_map_path': 'label/0.png'}) == ('label/0.png',)
    assert image_paths({}) == ()


def test_whole_names_tell_which_of_several_sets_an_image_is_from():
    paths = [
        ('/data/levir/test/A/1.png', '/data/levir/test/B/1.png'),
        ('/data/gzcd/test/A/2.png', '/data/gzcd/test/B/2.png'),
    ]
    assert image_names(paths) == ['1.png', '2.png']
    assert image_names(paths, whole=True) == ['levir/test/B/1.png', 'gzcd/test/B/2.png']
